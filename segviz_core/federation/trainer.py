"""The warm trainer of a site: one process that keeps torch, network and prepared cases between rounds (no flwr).

    python -P -m segviz_core.federation.trainer SITE_FOLDER

It checks and prepares the cases, once: a restart finds them in work/cases, which never leaves the site and may be
deleted at any time it does not run. It says `ready` on standard output, then answers one request after the other on a
local socket. It ends when its standard input closes.
"""

import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from segviz_core.cases import open_site
from segviz_core.devices import lost_card, out_of_memory, torch_device
from segviz_core.errors import SegVizError
from segviz_core.federation import journal, trainer_socket
from segviz_core.federation.child import end_with_parent
from segviz_core.federation.packets import Packet
from segviz_core.federation.schema import news
from segviz_core.federation.session import SiteSession
from segviz_core.federation.settings import SiteSettings
from segviz_core.federation.site_folder import read_site
from segviz_core.layouts import find_cases

_logger = logging.getLogger(__name__)

_REPORT_INTERVAL_S = 0.5


def main(arguments: Sequence[str]) -> int:
    """Serve the site in the folder named by `arguments`; 3 if its data cannot be used."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    end_with_parent(lambda: os._exit(0))  # everything is written in one step, so no moment is a bad one
    folder = Path(arguments[0])
    try:
        trainer = Trainer(folder, read_site(folder))
    except SegVizError as error:
        journal.say("error", kind=error.kind, message=error.message, hint=error.hint)
        return error.exit_code
    listener = trainer_socket.listen(folder)
    cases, device = trainer.session.site, trainer.session.device
    counts = {"training_cases": len(cases.training_cases), "validation_cases": len(cases.validation_cases)}
    journal.say("ready", **counts, device=device)
    trainer_socket.serve(listener, trainer.answer, on_error=_note)
    return 0


def _note(error: BaseException) -> None:
    """Log what went wrong; end where only a new process has the card again: the request waits for it."""
    _logger.error("request failed", exc_info=error)
    if lost_card(error):
        os._exit(1)


class Trainer:
    """The site's session: on the graphics card; a request that does not fit there is answered by the processor."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self._device = torch_device(settings.get("device", "auto")).type
        torch.set_num_threads(settings["cores"])
        site = SiteSettings.from_dict(settings["site"])
        folder_of_cases = Path(settings["cases"])
        stated = {organ: tuple(values) for organ, values in settings["label_values"].items()}
        cases = open_site(
            folder_of_cases,
            label_set=find_cases(folder_of_cases).label_set(settings["organs"], stated=stated),
            contract=site.contract,
            seed=site.seed,
            cache=folder / "work" / "cases",
            on_progress=_Reporter(),
        )
        self.session = SiteSession(site, cases, folder / "work", device=self._device)

    def answer(self, request: Packet, stop_when_closed: trainer_socket.Progress) -> Packet:
        """The site's answer to `request`; `stop_when_closed` ends the work when nobody waits for it any more."""
        round_number, started = int(request.settings.get("round", 0)), time.monotonic()
        report = _Reporter(round=round_number)

        def on_progress(stage: str, done: int, total: int) -> None:
            stop_when_closed(stage, done, total)
            report(stage, done, total)

        journal.say(
            "round", round=round_number, stage=request.stage, device=self.session.device, **news(request.settings)
        )
        try:
            reply = self._handle(request, on_progress)
        except BaseException:
            journal.say("stopped", round=round_number, stage=request.stage)
            raise
        finally:
            torch.cuda.empty_cache()  # segmenting has the card between the rounds
        seconds = round(time.monotonic() - started, 2)
        journal.say("answered", round=round_number, stage=request.stage, seconds=seconds, metrics=dict(reply.metrics))
        return reply

    def _handle(self, request: Packet, on_progress: trainer_socket.Progress) -> Packet:
        try:
            return self.session.handle(request, on_progress=on_progress)
        except Exception as error:
            if self.session.device == "cpu" or not out_of_memory(error):
                raise
        # Out here the failed attempt is forgotten: the error held all that it had on the card.
        self._open("cpu")
        torch.cuda.empty_cache()
        message = "The graphics card has too little free memory; the processor does the work of this round."
        _logger.warning(message)
        journal.say("device", device="cpu", message=message)
        try:
            return self.session.handle(request, on_progress=on_progress)
        finally:
            self._open(self._device)

    def _open(self, device: str) -> None:
        """The same site on `device`, from what the finished requests have left on disk."""
        old = self.session
        self.session = SiteSession(old.settings, old.site, old.work, device=device)


class _Reporter:
    """Progress on standard output, twice a second at most."""

    def __init__(self, **values: int) -> None:
        self._values, self._last = values, 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - self._last >= _REPORT_INTERVAL_S:
            self._last = now
            journal.say("progress", stage=stage, done=done, total=total, **self._values)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
