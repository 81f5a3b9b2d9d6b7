"""Files are replaced in one step, or not at all."""

import errno
import json
import os

import pytest

from segviz_core.atomic import check_writable, replacing, write_json
from segviz_core.errors import InputError


def test_the_new_file_takes_the_place_of_the_old_one_at_the_end(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with replacing(path) as temporary:
        assert temporary.name == "a.json"
        temporary.write_text("new")
        assert list(tmp_path.glob("*.json")) == [path]  # half a file is not taken for a whole one
        assert path.read_text(encoding="utf-8") == "old"
    assert path.read_text(encoding="utf-8") == "new"
    assert list(tmp_path.iterdir()) == [path]


def write_half(path, error):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_failure_or_a_stop_half_way_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(type(error)):
        write_half(path, error)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "number,reason",
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EACCES, "there is no permission to write there"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_the_reason_is_one_sentence_and_the_old_file_stays(tmp_path, number, reason):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(InputError, match=rf"Cannot write .*a\.json: {reason}\. .*old file is unchanged"):
        write_half(path, OSError(number, os.strerror(number)))
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named_before_and_at_the_write(tmp_path):
    path = tmp_path / "absent" / "a.json"
    with pytest.raises(InputError, match=r"a\.json: the folder does not exist"):
        check_writable(path)
    with pytest.raises(InputError, match=r"a\.json: the folder does not exist"):
        write_json(path, {})


def test_a_folder_where_nobody_may_write_is_refused_before_the_work(tmp_path):
    with pytest.raises(InputError, match=r"Cannot write /proc/a\.json"):
        check_writable(type(tmp_path)("/proc/a.json"))


def test_checking_a_place_leaves_nothing_there(tmp_path):
    check_writable(tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []


def test_json_is_readable_and_without_nan(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"organ": "Leber", "dice": 0.5})
    assert json.loads(path.read_text(encoding="utf-8")) == {"organ": "Leber", "dice": 0.5}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    assert json.loads(path.read_text(encoding="utf-8"))["dice"] == 0.5
