"""Flower's ClientApp at a site: passes one message on to the warm trainer and its answer back (numpy only, no torch).

A process of its own per message. Whatever goes wrong, an error code leaves the site and never the text of an exception,
which could name a path or a patient.
"""

import errno
import time
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from segviz_core.errors import InputError
from segviz_core.federation import journal, records, trainer_socket
from segviz_core.federation.packets import Packet, check_schema
from segviz_core.federation.schema import REPLY, REQUEST
from segviz_core.federation.site_folder import AUDIT_FILE

TRAINER_S = 600.0
"""A trainer that is started again prepares all its cases first."""
_RETRY_S = 0.5

app = ClientApp()


@app.train()  # type: ignore[untyped-decorator]
def train(message: Message, context: Context) -> Message:
    """Answer one request of the coordinator, whatever its stage."""
    site = Path(str(context.node_config["site"]))
    return Message(answer(message.content, site), reply_to=message)


def answer(content: RecordDict, site: Path) -> RecordDict:
    """The reply to `content` of the site whose folder is `site`: records of a packet, or of an error code."""
    try:
        request = records.from_record(content)
        check_schema(request, REQUEST)
        _note(site, "received", request)
        reply = _ask(site, request)
        check_schema(reply, REPLY)
        _note(site, "sent", reply)
        return records.to_record(reply)
    except trainer_socket.TrainerError as error:
        return _error(site, error.code, error)
    except InputError as error:
        return _error(site, "refused", error)
    except OSError as error:  # without a record of what leaves, nothing leaves
        return _error(site, "no-space" if error.errno == errno.ENOSPC else "failed", error)
    except Exception as error:
        return _error(site, "failed", error)


def _ask(site: Path, request: Packet) -> Packet:
    """The trainer's answer; while it is being started again, the request waits."""
    deadline = time.monotonic() + TRAINER_S
    while True:
        try:
            return trainer_socket.ask(site, request)
        except trainer_socket.TrainerError as error:
            if error.code != "no-trainer" or time.monotonic() > deadline:
                raise
        time.sleep(_RETRY_S)


def _note(site: Path, event: str, packet: Packet) -> None:
    """The audit record of one packet: what came or leaves, by name and size."""
    groups = {
        name: {"arrays": len(arrays), "bytes": sum(array.nbytes for array in arrays.values())}
        for name, arrays in packet.arrays.items()
    }
    values = {"settings": dict(packet.settings), "arrays": groups, "metrics": dict(packet.metrics)}
    journal.append(site / AUDIT_FILE, event, **values)


def _error(site: Path, code: str, error: Exception) -> RecordDict:
    journal.try_append(site / AUDIT_FILE, "error", code=code, detail=f"{type(error).__name__}: {error}"[:500])
    return records.error_record(code)
