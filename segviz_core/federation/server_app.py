"""Flower's ServerApp: opens the study named in the run config and plays the rounds that are left."""

import json
import logging
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from segviz_core.errors import SegVizError
from segviz_core.federation.coordinator import RUN_FILE, write_status
from segviz_core.federation.running import only_one
from segviz_core.federation.strategy import conduct
from segviz_core.federation.study import Study

SERVER_APP_FOLDER = "server_app"

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Conduct the study; how it ended stands in its status file, which the coordinator reads.

    A run that an earlier coordinator left behind carries another session word and does nothing.
    """
    _log_to_standard_error()
    folder, session = Path(str(context.run_config["study"])), str(context.run_config["session"])
    if json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))["session"] != session:
        return
    (folder / SERVER_APP_FOLDER).mkdir(exist_ok=True)
    with only_one(folder / SERVER_APP_FOLDER, what="A ServerApp", patience_s=30):
        try:
            study = Study(folder)
            conduct(grid, study, publish=lambda values: _publish(folder, study, values))
            write_status(folder, state="finished", round=len(study.rounds), rounds=len(study.rounds))
        except SegVizError as error:
            write_status(folder, state="failed", message=error.message, hint=error.hint, kind=error.kind)


def _publish(folder: Path, study: Study, values: dict[str, Any]) -> None:
    where: dict[str, Any] = {"round": study.number, "rounds": len(study.rounds), "stage": study.stage}
    write_status(folder, **(where | values))


def _log_to_standard_error() -> None:
    """One line per round, and per reply that is not used or asked for again: Flower shows its own log only."""
    logger, handler = logging.getLogger("segviz_core"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
