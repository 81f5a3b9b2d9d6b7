"""The contract with Flower's private names that the gate replaces. If this fails, Flower was changed: see the message.

That code from the coordinator does not run is shown by a real run in test_site.py.
"""

import hashlib
import inspect
import subprocess
import threading
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import flwr.common.constant as constant
import flwr.supercore.retry.http_retry as http_retry
import flwr.supernode.node_auth_http_interceptor as signing
import flwr.supernode.runtime.run_clientapp as runtime
import flwr.supernode.start_client_internal as node
import httpx
import pytest
from flwr.app import Message, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import TaskType
from flwr.supercore.corestate import sql_corestate
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.state.schema.linkstate_models import Node as NodeModel
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.plugin import AutoExecPlugin
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from segviz_core.federation import clock, gate
from segviz_core.federation.flower_process import (
    PROGRAMS,
    command,
    give_up_silent_uploads,
    retry_broken_handshakes,
    send_each_reply_at_once,
)
from segviz_core.federation.kit import FLWR_VERSION

WHAT_TO_DO = (
    f"The gate was written for Flower {FLWR_VERSION}. Go back to that version, or read the changed file, adapt "
    "segviz_core/federation/gate.py and flower_process.py, run every test of the federation, and move FLWR_VERSION."
)


def test_installed_flower_is_the_pinned_one() -> None:
    assert version("flwr") == FLWR_VERSION, WHAT_TO_DO


def test_the_client_app_process_has_the_names_that_the_gate_replaces() -> None:
    source = inspect.getsource(runtime.run_clientapp)
    for call in (
        "install_from_fab(fab.content, skip_prompt=True)",
        "get_project_dir(run.fab_id, run.fab_version, fab.hash_str)",
        "get_load_client_app_fn(\n",
        "client_app: ClientApp = load_client_app_fn(",
        "Message(Error(code=e_code, reason=reason), reply_to=message)",
    ):
        assert call in source, WHAT_TO_DO


def test_the_superexec_has_the_names_that_the_gate_replaces() -> None:
    assert list(inspect.signature(SubprocessExecutor.launch).parameters) == ["self", "spec"], WHAT_TO_DO
    assert isinstance(AutoExecPlugin.supported_task_types, frozenset), WHAT_TO_DO
    wanted = {"task_type", "token", "runtime_api_address", "insecure", "root_certificates_path"}
    assert wanted <= set(ExecutionSpec.__dataclass_fields__), WHAT_TO_DO
    assert callable(LaunchResult.accepted), WHAT_TO_DO
    assert callable(LaunchResult.failed), WHAT_TO_DO
    assert {TaskType.SERVER_APP, TaskType.CLIENT_APP} < set(TaskType), WHAT_TO_DO


def test_the_node_sleeps_through_its_own_time_module() -> None:
    assert "time.sleep(3)" in inspect.getsource(node.start_client_internal), WHAT_TO_DO


def test_late_reply_to_a_stopped_run_does_not_hold_back_the_next_reply(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    store = InMemoryObjectStore()
    state, sent = InMemoryNodeState(store), []
    old, new = (Message(RecordDict(), dst_node_id=1, message_type="train") for _ in range(2))
    for name, message in (("old", old), ("new", new)):
        message.metadata.__dict__["_message_id"] = name
        state.record_message_processing_start(name)

    def reply_to(message: Message) -> None:
        state.record_message_processing_end(message.metadata.message_id)
        node._insert_message(Message(RecordDict(), reply_to=message), state, store)

    def send(message: Message, *_: object) -> tuple[set[str], str]:
        sent.append(message.metadata.reply_to_message_id)
        return set(), ""

    supernode = SimpleNamespace(
        _pull_and_store_message=lambda *, receive: receive()[0].metadata.run_id, _push_messages=node._push_messages
    )
    send_each_reply_at_once(supernode)
    reply_to(old)
    assert supernode._pull_and_store_message(receive=lambda: (new, None)) is not None
    threading.Timer(1.0, reply_to, [new]).start()
    supernode._push_messages(state=state, object_store=store, send=send, push_object=None)
    assert sent == ["old", "new"]


def test_the_node_has_the_names_that_its_process_replaces() -> None:
    source = inspect.getsource(node.start_client_internal)
    assert "_pull_and_store_message(\n                state=state," in source, WHAT_TO_DO
    assert "_push_messages(\n                state=state," in source, WHAT_TO_DO
    assert "receive=receive,\n" in source, WHAT_TO_DO
    assert "send=send,\n" in source, WHAT_TO_DO
    assert "recv := receive()" in inspect.getsource(node._pull_and_store_message), WHAT_TO_DO
    assert "send(message, object_tree, clientapp_runtime)" in inspect.getsource(node._push_messages), WHAT_TO_DO


def test_upload_that_stops_is_given_up_after_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a site that goes, or is removed, while it sends would hold up the study for three minutes."""
    monkeypatch.setattr(sql_corestate, "OBJECT_PUSH_SESSION_TTL_SECONDS", 180)
    give_up_silent_uploads(sql_corestate)
    state = SqlLinkState(str(tmp_path / "state.db"), MagicMock(), InMemoryObjectStore())
    state.initialize()
    piece, real_now = hashlib.sha256(b"a piece").hexdigest(), sql_corestate.now
    state.preregister_object_tree(ObjectTree(object_id=piece), state.start_session(1))
    waiting, lost = b"", None
    for seconds, found in ((59, waiting), (61, lost)):
        monkeypatch.setattr(sql_corestate, "now", lambda seconds=seconds: real_now() + timedelta(seconds=seconds))
        assert state.get_object(1, piece) == found


def test_the_superlink_and_the_apps_have_the_names_that_their_processes_set() -> None:
    source = inspect.getsource(sql_corestate.SqlCoreState)
    assert source.count("seconds=OBJECT_PUSH_SESSION_TTL_SECONDS") == 2, WHAT_TO_DO
    assert 'os.getenv("FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", ' in inspect.getsource(constant), WHAT_TO_DO


def test_retries_are_bounded_by_the_name_that_the_node_process_changes() -> None:
    source = inspect.getsource(http_retry.make_simple_http_retry_invoker)
    assert "exponential(max_delay=MAX_RETRY_DELAY)" in source, WHAT_TO_DO


def test_every_error_that_names_ssl_is_the_last_one_for_the_node() -> None:
    source = inspect.getsource(http_retry.make_simple_http_retry_invoker)
    assert '("certificate", "ssl", "tls")' in source, WHAT_TO_DO


@pytest.mark.parametrize(
    "said, passed_on",
    [
        ("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol (_ssl.c:1006)", False),
        ("_ssl.c:989: The handshake operation timed out", False),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed (_ssl.c:1006)", True),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)", True),
        ("[Errno 111] Connection refused", True),
    ],
)
def test_line_that_breaks_in_the_handshake_is_tried_again(
    said: str, passed_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> httpx.Response:
        raise httpx.ConnectError(said)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", fail)
    retry_broken_handshakes()
    with pytest.raises(httpx.ConnectError) as caught, httpx.Client() as client:
        client.get("https://127.0.0.1:1/")
    assert str(caught.value) == (said if passed_on else "The line broke while the connection was made.")


def test_signatures_are_dated_and_judged_by_the_names_that_the_node_process_and_the_clock_rely_on() -> None:
    assert "now().isoformat()" in inspect.getsource(signing.NodeAuthHttpInterceptor.intercept), WHAT_TO_DO
    assert (constant.TIMESTAMP_TOLERANCE, constant.SYSTEM_TIME_TOLERANCE) == (300, 5), WHAT_TO_DO
    assert pytest.approx((300 + 5 - 5) / 2) == clock.TOLERATED_S, WHAT_TO_DO


def test_the_database_has_the_table_of_nodes_that_is_restored() -> None:
    assert {"node_id", "name", "public_key"} <= set(NodeModel.__table__.columns.keys()), WHAT_TO_DO
    assert NodeModel.__tablename__ == "node", WHAT_TO_DO
    source = inspect.getsource(SqlLinkState.create_node)
    assert source.count("insert(") == 1, WHAT_TO_DO  # a registered site is one row


def test_another_version_of_flower_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "version", lambda _: "1.42.0")
    with pytest.raises(RuntimeError, match=r"Expected Flower 1\.41\.0, found 1\.42\.0"):
        gate.run_superexec("server-app")


def test_every_program_starts_by_python_alone(tmp_path: Path) -> None:
    """No console script of Flower is on PATH."""
    environment = {"PATH": "", "FLWR_HOME": str(tmp_path)}
    pipe = subprocess.PIPE  # an input that stays open: a closed one means that the parent is gone
    with subprocess.Popen(command("supernode", None, "--version"), env=environment, stdin=pipe, stdout=pipe) as child:
        assert child.stdout is not None
        assert FLWR_VERSION.encode() in child.stdout.read()
    assert set(PROGRAMS) == {
        "superlink",
        "supernode",
        "server-superexec",
        "site-superexec",
        "server-app",
        "client-app",
        "flwr",
    }


def test_flower_in_a_private_folder_must_bring_its_own_cryptography(tmp_path: Path) -> None:
    done = subprocess.run(
        command("supernode", tmp_path, "--version"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"expected cryptography from {tmp_path}" in done.stderr
