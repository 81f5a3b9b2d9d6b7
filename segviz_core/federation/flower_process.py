"""Child script: one of Flower's programs in this process, started without console scripts and stopped by its parent.

    python -P -m segviz_core.federation.flower_process PROGRAM FLWR_FOLDER [Flower's own arguments]

FLWR_FOLDER is the private folder that holds flwr, or "" where it is installed normally. Under Slicer's launcher
PYTHONPATH alone comes too late (slicer.md section 3), so the folder is put first before anything else is imported.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from segviz_core.federation.child import end_with_parent
from segviz_core.federation.clock import TOLERATED_S

_LONGEST_SLEEP_S, _LONGEST_RETRY_S = 1.0, 4.0
_UPLOAD_SILENT_S, _CHUNK_BYTES = 60, 1 << 20
"""Two pieces travel at once, and each must come within the silence: of 1 MiB, instead of Flower's 5, they pass a line
of 0.3 Mbit/s."""

COMMAND = ("-P", "-m", "segviz_core.federation.flower_process")


def command(program: str, flwr_folder: Path | None, *arguments: str) -> list[str]:
    """The command line of `program`, one of PROGRAMS."""
    return [sys.executable, *COMMAND, program, str(flwr_folder or ""), *arguments]


def read_task() -> list[str]:
    """The arguments of this task, which the SuperExec writes to standard input once there is a task.

    Its token must not stand on a command line that every user of the computer can read. When the SuperExec ends, the
    task ends at once: Flower's own watch would let it try to reach its server for ever.
    """
    line = sys.stdin.readline()
    if not line:  # the SuperExec has gone
        sys.exit(0)
    arguments = json.loads(line)
    assert isinstance(arguments, list)
    end_with_parent(lambda: os._exit(1))
    return arguments


def use_folder(folder: str) -> None:
    """Load flwr and what it needs from `folder`, in this process and in its children."""
    if not folder:
        return
    sys.path.insert(0, folder)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH", ""))))
    import cryptography  # the first package on which flwr and Slicer disagree

    if not Path(cryptography.__file__).is_relative_to(folder):
        raise RuntimeError(f"expected cryptography from {folder}, found {cryptography.__file__}; install flwr again")


def _superlink() -> None:
    import flwr.supercore.corestate.sql_corestate as state
    from flwr.superlink.cli import flower_superlink

    give_up_silent_uploads(state)
    flower_superlink()


def give_up_silent_uploads(state: Any) -> None:
    """Let the SuperLink, whose module of sessions is `state`, take an upload for lost after a minute of silence.

    So long the ServerApp waits for the rest of a reply whose site has gone, deaf to all other sites. A minute is the
    lease of a node, too; Flower's own three were longer than anybody waits for a study that stands still.
    """
    state.OBJECT_PUSH_SESSION_TTL_SECONDS = _UPLOAD_SILENT_S


def _supernode() -> None:
    import flwr.supercore.retry.http_retry as retry
    import flwr.supernode.node_auth_http_interceptor as signing
    import flwr.supernode.start_client_internal as node
    from flwr.supercore.date import now
    from flwr.supernode.cli import flower_supernode

    # Hard-coded in Flower: it looks for a message every 3 s (with 30 rounds that alone would cost a minute), and tries
    # to reach a server that restarts every 20 s.
    node.time = SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, _LONGEST_SLEEP_S)))
    retry.MAX_RETRY_DELAY = _LONGEST_RETRY_S
    signing.now = lambda: now() - timedelta(seconds=TOLERATED_S)
    retry_broken_handshakes()
    send_each_reply_at_once(node)
    flower_supernode()
    os._exit(1)  # it has given up; its own little server would keep the process alive for ever


def retry_broken_handshakes() -> None:
    """Let Flower try again where a line breaks while TLS begins.

    It gives up for good at any error that names SSL; but a gateway, tunnel or load balancer whose other end restarts
    accepts and hangs up, and that has nothing to do with certificates.
    """
    import httpx

    handle = httpx.HTTPTransport.handle_request

    def handle_request(self: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        try:
            return handle(self, request)
        except httpx.TransportError as error:
            text = str(error).lower()
            if "ssl" not in text or "certificate" in text or "wrong_version" in text:
                raise
            raise type(error)("The line broke while the connection was made.", request=request) from error

    httpx.HTTPTransport.handle_request = handle_request  # type: ignore[method-assign]


def send_each_reply_at_once(node: Any) -> None:
    """Let the SuperNode, whose module is `node`, wait for the reply to the message that it has just received.

    Flower waits for any reply, sends it and asks for the next message. A late reply to a run that was stopped would be
    taken for that to the new run's first message, whose own reply then waits for the next message, and so on.
    """
    pull, push = node._pull_and_store_message, node._push_messages
    received: list[str] = []

    def pull_and_note(*, receive: Callable[[], Any], **others: Any) -> int | None:
        def receive_and_note() -> Any:
            if found := receive():
                received[:] = [found[0].metadata.message_id]
            return found

        run_id: int | None = pull(receive=receive_and_note, **others)
        return run_id

    def push_until_answered(*, send: Callable[..., Any], **others: Any) -> None:
        answered: list[str] = []

        def send_and_note(message: Any, *rest: Any) -> Any:
            answered.append(message.metadata.reply_to_message_id)
            return send(message, *rest)

        while received[0] not in answered:
            push(send=send_and_note, **others)

    node._pull_and_store_message, node._push_messages = pull_and_note, push_until_answered


def _server_superexec() -> None:
    from segviz_core.federation.gate import run_superexec

    run_superexec("server-app")


def _site_superexec() -> None:
    from segviz_core.federation.gate import run_superexec

    run_superexec("client-app", site=Path(sys.argv.pop(1)))


def _server_app() -> None:
    from flwr.superlink.cli import flwr_serverapp

    sys.argv += read_task()
    flwr_serverapp()


def _client_app() -> None:
    from segviz_core.federation.gate import run_client_app

    run_client_app(Path(sys.argv.pop(1)))


def _flwr() -> None:
    from flwr.cli.app import app

    app()


PROGRAMS: dict[str, tuple[str, Callable[[], None]]] = {
    # Flower looks at its own program name; those that run on are stopped by closing their standard input.
    "superlink": ("flower-superlink", _superlink),
    "supernode": ("flower-supernode", _supernode),
    "server-superexec": ("flower-superexec", _server_superexec),
    "site-superexec": ("flower-superexec", _site_superexec),
    "server-app": ("flwr-serverapp", _server_app),
    "client-app": ("flwr-clientapp", _client_app),
    "flwr": ("flwr", _flwr),
}
_LASTING = ("superlink", "supernode", "server-superexec", "site-superexec")


def _interrupt() -> None:
    """Ctrl-C in this process. raise_signal in this thread would not wake the main one from its sleep on POSIX."""
    if sys.platform == "win32":
        signal.raise_signal(signal.SIGINT)
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def main() -> None:
    """Run the program named on the command line."""
    _, program, folder, *arguments = sys.argv
    use_folder(folder)
    os.environ["FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE"] = str(_CHUNK_BYTES)  # read when flwr is imported
    name, run = PROGRAMS[program]
    sys.argv = [name, *arguments]
    if program in _LASTING:
        end_with_parent(_interrupt)
    run()


if __name__ == "__main__":
    main()
