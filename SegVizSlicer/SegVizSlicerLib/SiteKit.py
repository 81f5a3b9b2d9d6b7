"""The coordinator's site kit as the window shows it; every check that counts is made by `segviz_core` when joining."""

import hashlib
import json
import ssl
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

MEMBERS = ("kit.json", "ca.crt", "site_key")
"""A kit for a key that the site made itself has the first two."""

LARGEST_MEMBER = 65_536  # bytes, as segviz_core.federation.kit allows


@dataclass(frozen=True)
class KitInfo:
    """What a kit says; `allow` is empty when the site may annotate any organ. Its key is never read into the window."""

    path: Path
    study: str
    site: str
    address: str
    allow: tuple[str, ...]
    fingerprint: str
    daysLeft: float
    segviz: str
    flwr: str
    hasKey: bool

    @property
    def text(self) -> str:
        """One paragraph for the label under the field."""
        organs = ", ".join(self.allow) if self.allow else _("any organ")
        text = _("Site {site} of study {study}; may annotate {organs}; certificate valid for {days:.0f} more days.")
        text = text.format(site=self.site, study=self.study, organs=organs, days=self.daysLeft)
        return text if self.hasKey else text + " " + _("It holds no key: choose this site's own.")

    def withAddress(self, address: str, folder: Path) -> "KitInfo":
        """The same kit with another way to the coordinator, written into `folder`."""
        members = _members(self.path)
        values = json.loads(members["kit.json"]) | {"address": address}
        return _write(folder / "kit.zip", members | {"kit.json": json.dumps(values, indent=2).encode()})

    def withKey(self, key: Path, folder: Path) -> "KitInfo":
        """The same kit with the private key that this site made, written into `folder`.

        Raises:
            ValueError: the file is no key.
        """
        return _write(folder / "kit.zip", _members(self.path) | {"site_key": _readKey(key)})


def readKit(path: Path) -> KitInfo:
    """The kit in one file.

    Raises:
        ValueError: not a kit; the sentence says what was expected.
    """
    try:
        with zipfile.ZipFile(path) as file:
            entries = {entry.filename: entry.file_size for entry in file.infolist()}
            if set(entries) | {"site_key"} != set(MEMBERS) or max(entries.values()) > LARGEST_MEMBER:
                raise ValueError(path)
            values, certificate = json.loads(file.read("kit.json")), file.read("ca.crt").decode("ascii")
        return KitInfo(
            path=path,
            study=str(values["site"]["study"]),
            site=str(values["site"]["site"]),
            address=str(values["address"]),
            allow=tuple(str(organ) for organ in values["allow"]),
            fingerprint=hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate)).hexdigest(),
            daysLeft=_daysLeft(certificate),
            segviz=str(values["segviz"]),
            flwr=str(values["flwr"]),
            hasKey="site_key" in entries,
        )
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, ssl.SSLError) as error:
        text = _("{path} is not a site kit: choose the one file that the coordinator sent, or its three parts.")
        raise ValueError(text.format(path=path)) from error


def assembleKit(settings: Path, certificate: Path, key: Path, *, address: str, folder: Path) -> KitInfo:
    """Put the three parts of a kit (kit.json, CA certificate, site key) together in `folder`, for the user only.

    Raises:
        ValueError: a part is missing or cannot be read.
    """
    for name, path in zip(MEMBERS, (settings, certificate, key), strict=True):
        if not path.is_file() or path.stat().st_size > LARGEST_MEMBER:
            text = _("{path} is not the {name} of a site kit.")
            raise ValueError(text.format(path=path, name=name))
    values: dict[str, Any] = json.loads(settings.read_text(encoding="utf-8"))
    values["address"] = address or values["address"]
    members = {"kit.json": json.dumps(values, indent=2).encode(), "ca.crt": certificate.read_bytes()}
    return _write(folder / "kit.zip", members | {"site_key": _readKey(key)})


def certificateOf(kit: KitInfo) -> str:
    """The CA certificate in `kit`, PEM."""
    with zipfile.ZipFile(kit.path) as file:
        return file.read("ca.crt").decode("ascii")


def _members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def _readKey(path: Path) -> bytes:
    content = path.read_bytes() if path.stat().st_size <= LARGEST_MEMBER else b""
    if b"PRIVATE KEY" not in content:
        raise ValueError(_("{path} is not a private key; its name does not end in .pub.").format(path=path))
    return content


def _write(path: Path, members: dict[str, bytes]) -> KitInfo:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return readKit(path)


def _daysLeft(certificate: str) -> float:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=certificate)
    ends = [ssl.cert_time_to_seconds(entry["notAfter"]) for entry in context.get_ca_certs()]
    return (min(ends) - time.time()) / 86_400
