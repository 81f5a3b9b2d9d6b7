"""The way from a site to its coordinator as Flower's node takes it: directly, or through the computer's HTTP proxy.

Standard library only: Slicer tests the connection with it. Like httpx, which Flower uses, it asks `urllib` for the
proxy: HTTPS_PROXY and NO_PROXY, else the settings of Windows or macOS.
"""

import base64
import http.client
import ssl
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass


def proxy_to(host: str) -> str:
    """host:port of the proxy on the way to `host`, or empty."""
    found = _proxy(host)
    return f"{found.hostname}:{found.port or 80}" if found else ""


def connection_to(host: str, port: int, *, context: ssl.SSLContext, timeout: float) -> http.client.HTTPSConnection:
    """A connection that is not open yet; behind a proxy a tunnel, so that TLS still ends at the coordinator."""
    proxy = _proxy(host)
    if proxy is None:
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
    connection = http.client.HTTPSConnection(proxy.hostname or "", proxy.port or 80, timeout=timeout, context=context)
    headers = {}
    if proxy.username:
        login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        headers["Proxy-Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    connection.set_tunnel(host, port, headers)
    return connection


def _proxy(host: str) -> SplitResult | None:
    address = getproxies().get("https", "")
    if not address or host in ("127.0.0.1", "localhost") or proxy_bypass(host):
        return None
    return urlsplit(address if "://" in address else f"http://{address}")
