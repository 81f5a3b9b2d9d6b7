"""The files that make a study: its settings, the template of its arrays, the representation that all start from."""

import json
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

from segviz_core.atomic import replacing, write_json
from segviz_core.errors import InputError
from segviz_core.federation.packets import Arrays
from segviz_core.federation.settings import StudySettings
from segviz_core.federation.synchronization import Template

SETTINGS_FILE, TEMPLATE_FILE, INITIAL_FILE = "study.json", "template.json", "initial.safetensors"


def write_study(folder: Path, settings: StudySettings, template: Template, initial: Arrays) -> None:
    """Write the files that a Study opens; `initial` is the common representation."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / TEMPLATE_FILE, template.to_dict())
    with replacing(folder / INITIAL_FILE) as temporary:
        save_file(initial, temporary)
    write_json(folder / SETTINGS_FILE, settings.to_dict())


def read_study(folder: Path) -> tuple[StudySettings, Template, Arrays]:
    """What `write_study` wrote.

    Raises:
        InputError: there is no study in `folder`.
    """
    settings = StudySettings.from_dict(_read_json(folder / SETTINGS_FILE))
    template = Template.from_dict(_read_json(folder / TEMPLATE_FILE))
    return settings, template, load_file(folder / INITIAL_FILE)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"Expected the study file {path.name} in {path.parent}, found none that can be read.",
            hint="Create the study first: python -m segviz_core coordinator create.",
        ) from error
    assert isinstance(values, dict)
    return values
