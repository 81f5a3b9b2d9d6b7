"""The files in the folder of a site, which its processes share."""

import json
from pathlib import Path
from typing import Any

SITE_FILE = "site.json"
"""What `site join` chose: address, settings of the kit, cases, organs, cores, programs."""
CA_FILE, KEY_FILE, SECRET_FILE = "ca.crt", "site_key", "superexec.secret"
CONSENT_FILE, AUDIT_FILE, STATUS_FILE = "consent.json", "audit.jsonl", "status.jsonl"


def read_site(folder: Path) -> dict[str, Any]:
    """The settings in SITE_FILE."""
    settings = json.loads((folder / SITE_FILE).read_text(encoding="utf-8"))
    assert isinstance(settings, dict)
    return settings
