import json
import stat
import sys
import tempfile
import threading
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path

import pytest

from segviz_core import local_socket


def test_only_the_user_may_read_the_key_and_nobody_else_gets_in(tmp_path: Path) -> None:
    listener = local_socket.listen(tmp_path / "place.json")
    place = json.loads((tmp_path / "place.json").read_text(encoding="utf-8"))
    assert stat.S_IMODE((tmp_path / "place.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(place["address"]).parent.stat().st_mode) == 0o700

    def refuse() -> None:
        with pytest.raises(AuthenticationError):
            listener.accept()

    accepting = threading.Thread(target=refuse)
    accepting.start()
    with pytest.raises((AuthenticationError, EOFError, ConnectionError)):
        Client(place["address"], authkey=b"guessed")
    accepting.join(10)
    local_socket.close(listener, tmp_path / "place.json")


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe there has no path")
def test_a_deep_temporary_folder_does_not_stop_it_and_closing_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    listener = local_socket.listen(tmp_path / "place.json")
    folder = Path(str(listener.address)).parent
    assert len(str(listener.address)) <= local_socket.LONGEST_PATH
    local_socket.close(listener, tmp_path / "place.json")
    assert not folder.exists()
    assert list(deep.iterdir()) == []
    assert not (tmp_path / "place.json").exists()
