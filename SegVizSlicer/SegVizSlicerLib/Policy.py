"""The administrator's policy file: fixes the coordinator, its certificate and the models, or bars federation.

{"address": "seg.hospital.org:9443", "certificate": "/etc/segviz/ca.crt", "models": "/srv/segviz/models",
 "federation": true}

Looked for in $SEGVIZ_POLICY, then beside the module file. All entries are optional. A variable that names no file bars
federation: a share that is away must not lift a policy.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from slicer.i18n import tr as _

FILE_NAME = "segviz-policy.json"
_KINDS = {"address": str, "certificate": str, "models": str, "federation": bool}


@dataclass(frozen=True)
class Policy:
    """What an administrator has fixed; empty = free choice. `problem` is a sentence when the file cannot be used."""

    address: str = ""
    certificate: str = ""
    models: str = ""
    federation: bool = True
    problem: str = ""

    @property
    def inForce(self) -> bool:
        """Whether anything is fixed."""
        return self != Policy()

    @property
    def reason(self) -> str:
        """The tooltip of every locked field."""
        return _("Set by your administrator.")


def readPolicy(moduleFolder: Path) -> Policy:
    """The policy in force; a file that cannot be read bars federation rather than being ignored."""
    named = os.environ.get("SEGVIZ_POLICY")
    path = Path(named or moduleFolder / FILE_NAME)
    if not named and not path.exists():
        return Policy()
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        for name, value in values.items():
            if not isinstance(value, _KINDS[name]):
                raise ValueError(name)
        return Policy(**values)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        text = _("The policy file {path} cannot be used ({error}): ask your administrator.")
        return Policy(federation=False, problem=text.format(path=path, error=error))
