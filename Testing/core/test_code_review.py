"""Mode `pin`: the coordinator's code runs at a site by its hash alone, once a person there has approved it."""

import io
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flwr.supernode.runtime.run_clientapp as runtime
import pytest
from flwr.cli.build import build_fab_from_disk

from segviz_core.errors import InputError
from segviz_core.federation import code_review, gate, journal
from segviz_core.federation.code_review import approve, keep, review
from segviz_core.federation.flower_app import write_app
from segviz_core.federation.site_folder import AUDIT_FILE, SITE_FILE


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / SITE_FILE).write_text(json.dumps({"code": "pin"}))
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flower"))
    return folder


def fab(folder: Path, more: str = "") -> bytes:
    """A study's real app as Flower packs it, with `more` in its ClientApp."""
    write_app(folder)
    client_app = folder / "segviz_study" / "client_app.py"
    client_app.write_text(client_app.read_text(encoding="utf-8") + more)
    return build_fab_from_disk(folder)


def load(site: Path, content: bytes) -> Any:
    """The ClientApp that a task of the site gets: Flower's own steps, behind the gate."""
    names = ("install_from_fab", "get_project_dir", "get_load_client_app_fn")
    flower = SimpleNamespace(**{name: getattr(runtime, name) for name in names})
    gate.run_approved_code(flower, site)
    flower.install_from_fab(content, skip_prompt=True)
    sha256 = code_review.hashlib.sha256(content).hexdigest()
    version = next(line for line in zip_text(content, "pyproject.toml").splitlines() if line.startswith("version"))
    return flower.get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)(
        "segviz/segviz-study", version.split('"')[1], sha256
    )


def zip_text(content: bytes, name: str) -> str:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return file.read(name).decode()


def decisions(site: Path) -> list[str]:
    return [row["decision"] for row in journal.read(site / AUDIT_FILE) if row["event"] == "code"]


def test_code_that_nobody_approved_is_kept_and_not_run(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "ran"
    hostile = fab(tmp_path / "app", f"\nopen({str(marker)!r}, 'w')\n")
    assert load(site, hostile) is gate._not_approved
    assert not marker.exists()
    assert not (tmp_path / "flower" / "apps").exists()
    assert decisions(site) == ["not run: not approved"]
    assert '"event": "code-waits"' in capsys.readouterr().out


def test_approved_code_runs_and_only_of_that_hash(site: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    good, hostile = fab(tmp_path / "a"), fab(tmp_path / "b", f"\nopen({str(marker)!r}, 'w')\n")
    approve(site, keep(site, good))
    assert type(load(site, good)).__name__ == "ClientApp"
    assert load(site, hostile) is gate._not_approved
    assert not marker.exists()
    assert decisions(site) == ["approved", "run: approved", "not run: not approved"]


def test_unpacked_code_that_was_changed_on_disk_is_not_run_again(site: Path, tmp_path: Path) -> None:
    good = fab(tmp_path / "a")
    approve(site, keep(site, good))
    load(site, good)
    (unpacked,) = (tmp_path / "flower" / "apps").rglob("client_app.py")
    unpacked.write_text("raise SystemExit")
    assert type(load(site, good)).__name__ == "ClientApp"


def test_review_shows_files_hashes_and_the_difference_to_what_ran_before(site: Path, tmp_path: Path) -> None:
    old, new = keep(site, fab(tmp_path / "a")), keep(site, fab(tmp_path / "b", "\nimport os\n"))
    approve(site, old)
    before, now = sorted(review(site), key=lambda code: not code.approved)
    assert (before.sha256, before.approved, before.difference) == (old, True, "")
    assert (now.sha256, now.approved) == (new, False)
    assert "segviz_study/client_app.py" in now.files
    assert "+import os" in now.difference.splitlines()


def test_hash_that_was_never_sent_cannot_be_approved(site: Path) -> None:
    with pytest.raises(InputError, match=r"has sent no code with the hash '\.\./\.\./x'"):
        approve(site, "../../x")


def test_kept_code_that_was_exchanged_cannot_be_approved(site: Path, tmp_path: Path) -> None:
    sha256 = keep(site, fab(tmp_path / "a"))
    (site / "code" / f"{sha256}.fab").write_bytes(b"other")
    with pytest.raises(InputError, match="is not the code that it is named after"):
        approve(site, sha256)


def test_damaged_or_huge_code_is_named(site: Path) -> None:
    with pytest.raises(InputError, match="expected at most 10000000 bytes, found 10000001"):
        keep(site, bytes(10_000_001))
    keep(site, b"no zip")
    with pytest.raises(InputError, match="Expected a Flower app, found another or damaged file"):
        review(site)
