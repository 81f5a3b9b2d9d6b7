"""A trainer without torch for tests of the federation: speaks the real socket protocol, adds known numbers.

Started by a site's supervisor as `python toy_trainer.py SITE_FOLDER`. Every weight moves by `delta(site, round)` per
round, so final weights are known. A file `behaviour` in the site folder holds "slow SECONDS" or is absent.
"""

import os
import sys
import time
import zlib
from pathlib import Path

import numpy as np

from segviz_core.contract import DataContract
from segviz_core.federation import journal, trainer_socket
from segviz_core.federation.child import end_with_parent
from segviz_core.federation.packets import Packet
from segviz_core.federation.schema import news
from segviz_core.federation.site_folder import read_site
from segviz_core.federation.synchronization import COUNTER, MEAN, VARIANCE


def delta(site: str, round_number: int) -> float:
    """What the toy adds to every weight: between .5 and 1.5, another one for each site and round."""
    return 0.5 + zlib.crc32(f"{site}/{round_number}".encode()) / 2**32


def answer(request: Packet, *, site: str, organs: list[str], contract: str) -> Packet:
    """The toy's reply to any request of the `segviz` modes."""
    settings = {name: request.settings[name] for name in ("stage", "round", "mode")}
    cases = {f"cases/{organ}": 4.0 for organ in organs}
    if request.stage == "declare":
        settings |= {"site": site, "organs": ",".join(organs), "contract": contract, "version": "toy"}
        return Packet(settings, {}, cases)
    dice = {f"dice/{organ}": 0.5 for organ in organs}
    if request.stage in ("evaluate", "deliver"):
        return Packet(settings, {}, dice if request.stage == "evaluate" else {})
    if request.stage == "train-head":
        new = str(request.settings["organs"]).split(",")
        calibration = {f"temperature/{organ}": 1.0 for organ in new} | {f"threshold/{organ}": 0.5 for organ in new}
        return Packet(settings, {f"head/{organ}": {"up.weight": np.ones(3, np.float32)} for organ in new}, calibration)
    step = np.float32(delta(site, int(request.settings["round"])))
    update, norm = {}, {}
    for key, array in request.arrays["representation"].items():
        if key.endswith((MEAN, VARIANCE)):
            norm[key] = array + step
        elif key.endswith(COUNTER):
            norm[key] = array + 1
        else:
            update[key] = np.full_like(array, step)
    received = {organ: head["up.weight"] for organ, head in request.heads().items()}
    new = np.zeros(3, np.float32)
    heads = {f"head/{organ}": {"up.weight": received.get(organ, new) + step} for organ in organs}
    return Packet(settings, {"update": update, "norm": norm, **heads}, {"loss": 1.0, "steps": 1.0, **cases, **dice})


def main() -> None:
    folder = Path(sys.argv[1])
    site = read_site(folder)
    end_with_parent(lambda: os._exit(0))
    listener = trainer_socket.listen(folder)
    journal.say("ready", training_cases=4, validation_cases=0)
    contract = DataContract.from_dict(site["site"]["contract"]).hash

    def handle(request: Packet, stop_when_closed: trainer_socket.Progress) -> Packet:
        number = int(request.settings["round"])
        journal.say("round", round=number, stage=request.stage, **news(request.settings))
        file = folder / "behaviour"
        behaviour = file.read_text(encoding="utf-8") if file.exists() else ""
        if behaviour.startswith("slow"):
            end = time.monotonic() + float(behaviour.split()[1])
            while time.monotonic() < end:
                stop_when_closed(request.stage, 0, 1)
                time.sleep(0.05)
        reply = answer(request, site=site["site"]["site"], organs=site["organs"], contract=contract)
        journal.say("answered", round=number, stage=request.stage, seconds=0.0, metrics=dict(reply.metrics))
        return reply

    trainer_socket.serve(listener, handle, on_error=lambda error: sys.stderr.write(f"{error!r}\n"))


if __name__ == "__main__":
    main()
