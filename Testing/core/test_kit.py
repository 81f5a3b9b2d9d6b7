import json
import stat
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segviz_core import __version__
from segviz_core.contract import DataContract
from segviz_core.errors import InputError
from segviz_core.federation import certificates
from segviz_core.federation.kit import FLWR_VERSION, Kit, check_flower, read_kit, write_kit
from segviz_core.federation.settings import StudySettings

Members = dict[str, bytes]


@pytest.fixture
def kit_file(tmp_path: Path) -> Path:
    write_kit(tmp_path / "kit.zip", a_kit())
    return tmp_path / "kit.zip"


def a_kit(*, days: int = 100) -> Kit:
    certificate, _ = certificates.create_authority("toy", days=days)
    site = StudySettings(name="toy").for_site("north")
    return Kit(site, "127.0.0.1:9443", ("liver",), certificate, certificates.create_node_key()[0])


def test_kit_comes_back_as_it_was_written(tmp_path: Path) -> None:
    kit = a_kit()
    write_kit(tmp_path / "kit.zip", kit)
    assert read_kit(tmp_path / "kit.zip") == kit


def test_kit_is_readable_by_its_user_alone(kit_file: Path) -> None:
    assert stat.S_IMODE(kit_file.stat().st_mode) == 0o600


def test_kit_names_the_exact_versions(kit_file: Path) -> None:
    values = json.loads(members_of(kit_file)["kit.json"])
    assert (values["flwr"], values["segviz"]) == (FLWR_VERSION, __version__)


def test_kit_without_a_key_names_the_key_that_it_belongs_to(tmp_path: Path) -> None:
    kit = replace(a_kit(), key=None)
    write_kit(tmp_path / "kit.zip", kit)
    assert set(members_of(tmp_path / "kit.zip")) == {"kit.json", "ca.crt"}
    assert read_kit(tmp_path / "kit.zip") == kit


def test_missing_kit_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no site kit at .*none.zip"):
        read_kit(tmp_path / "none.zip")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 broken"])
def test_file_that_is_no_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "kit.zip").write_bytes(content)
    with pytest.raises(InputError, match="Expected a site kit, found another or damaged file"):
        read_kit(tmp_path / "kit.zip")


def test_truncated_kit_is_refused(kit_file: Path) -> None:
    kit_file.write_bytes(kit_file.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged"):
        read_kit(kit_file)


def without(name: str) -> Callable[[Members], None]:
    return lambda members: members.pop(name) and None


def with_member(name: str, content: bytes) -> Callable[[Members], None]:
    return lambda members: members.update({name: content})


def with_values(**values: Any) -> Callable[[Members], None]:
    def change(members: Members) -> None:
        members["kit.json"] = json.dumps(json.loads(members["kit.json"]) | values).encode()

    return change


OTHER_CERTIFICATE, _ = certificates.create_authority("other")


@pytest.mark.parametrize(
    "change, sentence",
    [
        (without("ca.crt"), "expected the members kit.json, ca.crt, site_key"),
        (with_values(public_key="ssh-ecdsa other"), "its two keys do not belong together"),
        (with_member("../evil.py", b"x"), "expected the members"),
        (with_member("extra", b"x"), "expected the members"),
        (with_member("ca.crt", b"x" * 20_000), "ca.crt has 20000 bytes, at most 16384 are allowed"),
        (with_member("kit.json", b"{"), "kit.json cannot be read"),
        (with_member("kit.json", b"[]"), "kit.json cannot be read"),
        (with_values(format="segviz-kit-9"), "Expected a kit of format segviz-kit-1, found 'segviz-kit-9'"),
        (with_values(more=1), "does not hold the fields of this format"),
        (with_values(allow="liver"), "does not hold the fields of this format"),
        (with_values(segviz="9.9"), f"needs SegViz 9.9, found {__version__}"),
        (with_values(flwr="1.42.0"), f"needs Flower 1.42.0; SegViz {__version__} works with {FLWR_VERSION}"),
        (with_values(site={}), "its settings cannot be read"),
        (with_values(contract_hash="0" * 64), "the data contract does not match its hash"),
        (with_values(address="127.0.0.1"), "its address is not host:port"),
        (with_values(address="127.0.0.1:99999"), "its address is not host:port"),
        (with_values(address="a b:9443"), "its address is not host:port"),
        (with_member("ca.crt", b"no certificate"), "its certificate cannot be read"),
        (with_member("ca.crt", OTHER_CERTIFICATE), "the certificate does not match its fingerprint"),
        (with_member("site_key", b"no key"), "The site key cannot be read"),
    ],
)
def test_every_fault_of_a_kit_has_its_sentence(
    kit_file: Path, change: Callable[[Members], None], sentence: str
) -> None:
    members = members_of(kit_file)
    change(members)
    with zipfile.ZipFile(kit_file, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    with pytest.raises(InputError, match=sentence) as caught:
        read_kit(kit_file)
    assert caught.value.hint


def test_kit_with_a_certificate_that_ended_is_refused(tmp_path: Path) -> None:
    write_kit(tmp_path / "kit.zip", a_kit(days=0))
    with pytest.raises(InputError, match="The certificate in this kit has ended"):
        read_kit(tmp_path / "kit.zip")


def test_kit_carries_the_settings_that_no_message_may_change(kit_file: Path) -> None:
    site = read_kit(kit_file).site
    assert (site.study, site.site, site.contract) == ("toy", "north", DataContract())


def test_the_one_version_of_flower_is_required_where_it_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"needs Flower {FLWR_VERSION} in .*, found none"):
        check_flower(tmp_path)
    for version in ("1.42.0", FLWR_VERSION):
        (tmp_path / "flwr.dist-info").mkdir(exist_ok=True)
        (tmp_path / "flwr.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: flwr\nVersion: {version}\n"
        )
        if version != FLWR_VERSION:
            with pytest.raises(InputError, match=r"found 1\.42\.0"):
                check_flower(tmp_path)
    check_flower(tmp_path)


def members_of(kit_file: Path) -> Members:
    with zipfile.ZipFile(kit_file) as file:
        return {name: file.read(name) for name in file.namelist()}
