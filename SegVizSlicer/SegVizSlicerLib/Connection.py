"""Test connection: is there a coordinator behind this address whose certificate belongs to the kit? In words."""

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPException

import qt
from slicer.i18n import tr as _

PATIENCE_S = 5.0
POLL_MS = 100


def splitAddress(address: str) -> tuple[str, int]:
    """Host and port.

    Raises:
        ValueError: not host:port.
    """
    host, colon, port = address.strip().rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise ValueError(_("Expected host:port, found {address!r}.").format(address=address))
    return host.strip("[]"), int(port)


def connectionProblem(address: str, certificate: str) -> str:
    """One sentence, or empty when a TLS connection that `certificate` (PEM) vouches for was made. Takes up to 5 s.

    The way is the one that Flower takes: through the computer's proxy where it has one.
    """
    from segviz_core.federation.way_out import connection_to, proxy_to

    proxy = ""
    try:
        host, port = splitAddress(address)
        context = ssl.create_default_context(cadata=certificate)
        proxy = proxy_to(host)
        connection = connection_to(host, port, context=context, timeout=PATIENCE_S)
        with closing(connection):
            connection.connect()
            return ""
    except ssl.SSLCertVerificationError as error:
        text = _("The coordinator's certificate does not belong to this kit ({why}).")
        return text.format(why=error.verify_message)
    except ssl.SSLError:
        return _("{address} answers, but not as a coordinator: check the port.").format(address=address)
    except ValueError as error:  # of splitAddress; the errors of ssl above are ValueErrors too
        return str(error)
    except (OSError, HTTPException) as error:
        return _throughProxy(address, proxy, error) if proxy else _direct(address, host, error)


def _direct(address: str, host: str, error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return _("There is no computer named {host}: check the address.").format(host=host)
    if isinstance(error, ConnectionRefusedError):
        return _("{address} refuses the connection: the coordinator is not running, or the port is wrong.").format(
            address=address
        )
    if isinstance(error, TimeoutError):
        text = _("{address} does not answer within {seconds:.0f} s: check the address and the firewall.")
        return text.format(address=address, seconds=PATIENCE_S)
    return _("No connection to {address}: {why}.").format(address=address, why=_why(error))


def _throughProxy(address: str, proxy: str, error: Exception) -> str:
    text = _("No connection to {address} through the proxy {proxy}: {why}. The proxy must allow CONNECT to this port.")
    return text.format(address=address, proxy=proxy, why=_why(error).rstrip("."))


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def testConnection(address: str, certificate: str, onFinished: Callable[[str], None]) -> None:
    """Run `connectionProblem` beside the window; `onFinished` gets its sentence on the main thread."""
    answer: list[str] = []
    threading.Thread(target=lambda: answer.append(connectionProblem(address, certificate)), daemon=True).start()

    def poll() -> None:
        if answer:
            onFinished(answer[0])
        else:
            qt.QTimer.singleShot(POLL_MS, poll)

    poll()
