"""The line between Flower's ClientApp and the warm trainer of a site: a local socket, safetensors, never pickle.

One request per connection, one answer: b"+" and a packet, or b"-" and an error code. Whoever asks holds the connection
open; when it closes, the trainer stops at its current batch. The address and a random key stand in a file that only the
user may read.
"""

import json
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

from segviz_core import local_socket
from segviz_core.errors import Cancelled, InputError
from segviz_core.federation.packets import Packet

ADDRESS_FILE = "trainer.json"

ERRORS = {
    "no-trainer": "the site's trainer is not running",
    "refused": "the site refused the request, its log says why",
    "failed": "the training failed at the site, its log says why",
    "no-space": "the disk of the site is full",
    "stopped": "the site stopped the work",
    "not-approved": "the site has not approved the code of this study yet",
}
"""All that a site tells about a fault: a code. The sentence is the coordinator's own; details stay at the site."""

_POLL_S = 0.5

Progress = Callable[[str, int, int], None]
Handle = Callable[[Packet, Progress], Packet]


class TrainerError(Exception):
    """The trainer gave no packet; `code` is one of ERRORS."""

    def __init__(self, code: str) -> None:
        super().__init__(ERRORS[code])
        self.code = code


def listen(folder: Path) -> Listener:
    """Open a local socket and write where it is into `folder`."""
    return local_socket.listen(folder / ADDRESS_FILE)


def serve(listener: Listener, handle: Handle, *, on_error: Callable[[BaseException], None]) -> None:
    """Answer one request after the other, for ever. `on_error` is told what went wrong; the asker gets a code only."""
    while True:
        try:
            connection = listener.accept()
        except Exception as error:  # a stranger without the key, or one that went away at once
            on_error(error)
            continue
        with connection:
            _answer(connection, handle, on_error)


def ask(folder: Path, request: Packet, *, while_waiting: Callable[[], None] = lambda: None) -> Packet:
    """Send `request` to the trainer whose address is in `folder` and wait for its answer.

    Raises:
        TrainerError: with a code of ERRORS; "stopped" where the site has taken the address away, for it is leaving.
    """
    if not (folder / ADDRESS_FILE).exists():
        raise TrainerError("stopped")
    try:
        place = json.loads((folder / ADDRESS_FILE).read_text(encoding="utf-8"))
        with Client(place["address"], authkey=bytes.fromhex(place["key"])) as connection:
            connection.send_bytes(request.to_bytes())
            while not connection.poll(_POLL_S):
                while_waiting()
            answer = connection.recv_bytes()
    except Exception as error:
        raise TrainerError("no-trainer") from error
    if answer[:1] != b"+":
        code = answer[1:].decode("ascii", "replace")
        raise TrainerError(code if code in ERRORS else "failed")
    try:
        return Packet.from_bytes(answer[1:])
    except InputError as error:
        raise TrainerError("failed") from error


def _answer(connection: Connection, handle: Handle, on_error: Callable[[BaseException], None]) -> None:
    def stop_when_closed(*_: object) -> None:
        if connection.poll():  # an asker says nothing more: readable means closed
            raise Cancelled

    try:
        request = Packet.from_bytes(connection.recv_bytes())
        answer = b"+" + handle(request, stop_when_closed).to_bytes()
    except Cancelled:
        answer = b"-stopped"
    except InputError as error:
        on_error(error)
        answer = b"-refused"
    except EOFError:
        return
    except Exception as error:
        on_error(error)
        answer = b"-failed"
    try:
        connection.send_bytes(answer)
    except OSError as error:  # the asker is gone
        on_error(error)
