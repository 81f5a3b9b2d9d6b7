"""docs/pictures/dashboard.png: the dashboard's page as it was in the middle of a recorded study.

    python Testing/dashboard_picture.py demo/study docs/pictures/dashboard.png

The study's own files are copied and cut off after a round; who is online is set for the picture.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).with_name("core")))
from chromium import Browser
from served_dashboard import served

from segviz_core.federation import coordinator
from segviz_core.federation.presence import Presence
from segviz_core.federation.running import only_one
from segviz_core.federation.study import CHECKPOINT_FILE, HISTORY_FILE, SITES_FILE
from segviz_core.federation.study_folder import SETTINGS_FILE

FILES = (SETTINGS_FILE, HISTORY_FILE, CHECKPOINT_FILE, SITES_FILE)
FILES += (coordinator.SERVER_FILE, coordinator.CERTIFICATE_FILE, coordinator.CA_FILE)


def main(record: Path, picture: Path) -> None:
    """Write `picture` of the study in `record`, three quarters of the way through."""
    with tempfile.TemporaryDirectory() as place:
        study = Path(place) / "study"
        study.mkdir()
        for name in FILES:
            shutil.copyfile(record / name, study / name)
        shutil.copytree(record / "sites", study / "sites")
        rows = [json.loads(line) for line in (study / HISTORY_FILE).read_text(encoding="utf-8").splitlines()]
        rows = rows[: len(rows) * 3 // 4]
        (study / HISTORY_FILE).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        nodes = list(json.loads((study / SITES_FILE).read_text(encoding="utf-8")))
        with only_one(study, what="The coordinator"):
            number = rows[-1]["round"] + 1
            coordinator.write_status(study, state="running", round=number, stage=rows[-1]["stage"])
            presence = Presence(study)
            presence.asked(nodes, number=number)
            presence.answered(nodes[0], reason="")
            picture.write_bytes(_photograph(study, Path(place)))


def _photograph(study: Path, profile: Path) -> bytes:
    browser = Browser(profile)
    try:
        with served(study) as url:
            browser.look(width=1100)
            browser.open(url)
            browser.wait_for("document.querySelectorAll('#dice svg, #loss svg').length == 2")
            return browser.screenshot()
    finally:
        browser.close()


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:3]))
