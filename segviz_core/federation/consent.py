"""Consent of a site: what leaves it and what never does, and the record of who agreed when."""

import getpass
import json
import platform
from datetime import UTC, datetime
from pathlib import Path

from segviz_core.atomic import write_json
from segviz_core.errors import InputError
from segviz_core.federation import certificates, journal
from segviz_core.federation.kit import Kit
from segviz_core.federation.schema import LEAVES
from segviz_core.federation.site_folder import AUDIT_FILE, CONSENT_FILE


def consent_text(kit: Kit, *, code: str = "local") -> str:
    """What leaves this site and what never does, the list being the protocol's own; and whose `code` runs (site.py)."""
    own = "Code that the coordinator sends is not run here."
    approved = "Code that the coordinator sends runs here once it was looked at and approved: site code, site approve."
    leaves = "\n".join(f"  - {meaning} ({name})" for name, meaning in LEAVES.items())
    return (
        f"Joining {kit.site.study!r} at {kit.address} as {kit.site.site!r}.\n\n"
        f"What leaves this computer, and nothing else:\n{leaves}\n  - codes of errors\n"
        "Other sites of the study see this site's pseudonym, organs and numbers of cases, and get its weights.\n"
        "What never leaves: images, labels, file names, DICOM tags, paths, user names, texts of errors.\n\n"
        "Trained weights can tell something about the cases they were trained on; differential privacy and secure\n"
        f"aggregation are not offered. {own if code == 'local' else approved}"
    )


def check_owner(folder: Path, kit: Kit) -> None:
    """Refuse a site folder in which another site, or the same one of another study, gave its consent.

    Raises:
        InputError: naming whose folder it is.
    """
    path = folder / CONSENT_FILE
    if not path.exists():
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    if any(found[name] != value for name, value in _identity(kit).items()):
        raise InputError(
            f"The folder {folder} belongs to site {found['site']!r} of study {found['study']!r}.",
            hint="Name another folder: --work",
        )


def record(folder: Path, kit: Kit, *, code: str = "local") -> None:
    """Keep who agreed, when, on which computer, to which text, for which study."""
    who = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "user": getpass.getuser(),
        "address": kit.address,
    }
    write_json(folder / CONSENT_FILE, {**who, **_identity(kit), "text": consent_text(kit, code=code)})
    journal.append(folder / AUDIT_FILE, "consent", **who, **_identity(kit), code=code)


def _identity(kit: Kit) -> dict[str, str]:
    fingerprint = certificates.fingerprint(kit.certificate)
    return {"study": kit.site.study, "site": kit.site.site, "ca_fingerprint": fingerprint}
