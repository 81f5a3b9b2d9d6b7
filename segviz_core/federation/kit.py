"""The site kit: the one file that a coordinator sends to a site (flower.md section 5).

A zip of three members: kit.json (what to join and how), ca.crt (the study's authority) and site_key (who the site is).
A site that made its key itself gets the first two.
"""

import io
import json
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from segviz_core import __version__
from segviz_core.errors import InputError
from segviz_core.federation import certificates
from segviz_core.federation.settings import SiteSettings

FLWR_VERSION = "1.41.0"
"""One exact version per federation: other minors are not refused by Flower, and the gate uses private API."""

_FORMAT = "segviz-kit-1"
_MEMBERS = {"kit.json": 65_536, "ca.crt": 16_384, "site_key": 8_192}  # name: most bytes
_FIELDS = {"format", "site", "address", "allow", "contract_hash", "flwr", "segviz", "ca_fingerprint", "public_key"}
_NEW_KIT = "Ask the coordinator for a new kit."


@dataclass(frozen=True)
class Kit:
    """What a site needs to join a study.

    `address` is host:port; an empty `allow` permits any organ; `certificate` is the authority's (PEM), `key` the site's
    private key (OpenSSH), None where the site made it itself; `public_key` is the half that the coordinator knows.
    """

    site: SiteSettings
    address: str
    allow: tuple[str, ...]
    certificate: bytes
    key: bytes | None
    public_key: bytes = b""

    def __post_init__(self) -> None:
        if self.key and not self.public_key:
            object.__setattr__(self, "public_key", certificates.public_key(self.key))


def write_kit(path: Path, kit: Kit) -> None:
    """Write `kit` as one zip that only the user may read, in one step."""
    values = {
        "format": _FORMAT,
        "site": kit.site.to_dict(),
        "address": kit.address,
        "allow": list(kit.allow),
        "contract_hash": kit.site.contract.hash,
        "flwr": FLWR_VERSION,
        "segviz": __version__,
        "ca_fingerprint": certificates.fingerprint(kit.certificate),
        "public_key": kit.public_key.decode(),
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("kit.json", json.dumps(values, indent=2))
        file.writestr("ca.crt", kit.certificate)
        if kit.key:
            file.writestr("site_key", kit.key)
    certificates.write_secret(path, content.getvalue())


def read_kit(path: Path) -> Kit:
    """Read a kit and check everything in it.

    Raises:
        InputError: one sentence naming the first fault: no kit, damaged, another version, a certificate that ended.
    """
    members = _read_members(path)
    values = _read_values(members["kit.json"])
    if values["segviz"] != __version__:
        raise InputError(f"This kit needs SegViz {values['segviz']}, found {__version__}.", hint=_versions_hint())
    if values["flwr"] != FLWR_VERSION:
        raise InputError(
            f"This kit needs Flower {values['flwr']}; SegViz {__version__} works with {FLWR_VERSION}.",
            hint=_versions_hint(),
        )
    try:
        site = SiteSettings.from_dict(values["site"])
    except Exception as error:
        raise _damaged("its settings cannot be read") from error
    if values["contract_hash"] != site.contract.hash:
        raise _damaged("the data contract does not match its hash")
    _check_certificate(members["ca.crt"], str(values["ca_fingerprint"]))
    key, public = members.get("site_key"), str(values["public_key"]).encode()
    if key and certificates.public_key(key) != public:
        raise _damaged("its two keys do not belong together")
    return Kit(site, _address(values["address"]), tuple(values["allow"]), members["ca.crt"], key, public)


def check_flower(folder: Path | None) -> None:
    """Make sure that flwr, in the private `folder` or installed normally, is the one version that works.

    Raises:
        InputError: it is another one, or there is none.
    """
    places = [str(folder)] if folder else sys.path
    found = next((distribution.version for distribution in distributions(name="flwr", path=places)), None)
    if found != FLWR_VERSION:
        where = f" in {folder}" if folder else ""
        raise InputError(
            f"SegViz {__version__} needs Flower {FLWR_VERSION}{where}, found {found or 'none'}.",
            hint=f"Install it: pip install flwr=={FLWR_VERSION}",
        )


def _read_members(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as file:
            entries = {entry.filename: entry for entry in file.infolist()}
            if set(entries) | {"site_key"} != set(_MEMBERS) or len(file.infolist()) != len(entries):
                found = ", ".join(sorted(entries))[:120]
                raise _damaged(f"expected the members {', '.join(_MEMBERS)}, found {found or 'none'}")
            for name, entry in entries.items():
                if entry.file_size > _MEMBERS[name]:
                    raise _damaged(f"{name} has {entry.file_size} bytes, at most {_MEMBERS[name]} are allowed")
            return {name: file.read(name) for name in entries}
    except FileNotFoundError as error:
        raise InputError(
            f"There is no site kit at {path}.", hint="Choose the file you got from the coordinator."
        ) from error
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"Expected a site kit, found another or damaged file: {path}.", hint=_NEW_KIT) from error


def _read_values(content: bytes) -> Mapping[str, Any]:
    try:
        values = json.loads(content)
        found = values["format"]
    except Exception as error:
        raise _damaged("kit.json cannot be read") from error
    if found != _FORMAT:
        raise InputError(f"Expected a kit of format {_FORMAT}, found {str(found)[:40]!r}.", hint=_versions_hint())
    if set(values) != _FIELDS or not isinstance(values["allow"], list):
        raise _damaged("kit.json does not hold the fields of this format")
    assert isinstance(values, dict)
    return values


def _check_certificate(certificate: bytes, expected: str) -> None:
    try:
        found = certificates.fingerprint(certificate)
    except InputError as error:
        raise _damaged("its certificate cannot be read") from error
    if found != expected:
        raise _damaged("the certificate does not match its fingerprint")
    if certificates.days_left(certificate) <= 0:
        raise InputError("The certificate in this kit has ended.", hint=_NEW_KIT)


def _address(text: Any) -> str:
    host, colon, port = str(text).rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise _damaged("its address is not host:port")
    if not all(letter.isalnum() or letter in "-.:[]" for letter in host):
        raise _damaged("its address is not host:port")
    return f"{host}:{port}"


def _damaged(what: str) -> InputError:
    return InputError(f"This site kit is damaged: {what}.", hint=_NEW_KIT)


def _versions_hint() -> str:
    return "Install the version that the coordinator uses, or ask for a new kit."
