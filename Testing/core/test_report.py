"""The report says what happened, shows the organs, and loads nothing from anywhere."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segviz_core.errors import InputError
from segviz_core.experiments.figures import ShownCase
from segviz_core.experiments.report import write_report
from segviz_core.volumes import Volume


def score(organ: str, dice: float, *, found: float, truth: float, case: str = "test_003") -> dict[str, Any]:
    """What evaluation says about one organ of one case; volumes in ml."""
    return {"case": case, "organ": organ, "dice": dice, "truth_ml": truth, "volume_error_ml": found - truth}


SUMMARY = {
    "dice": {"liver": 0.9, "spleen": 0.7, "kidneys": 0.8, "pancreas": 0.4, "mean": 0.7},
    "test_cases": 3,
    "cases": [
        score("liver", 0.11, found=1, truth=1, case="test_001"),
        score("liver", 0.951, found=1500.4, truth=1500.4),
        score("spleen", 0.667, found=60, truth=120),
        score("kidneys", 0.0, found=0, truth=200),
        score("pancreas", 1.0, found=0, truth=0),
    ],
    "seconds": {"phantoms": 12.34, "training": 125.0},
    "versions": {"segviz": "1.0.0", "torch": "2.13.0"},
}


def row(number: int, stage: str, metrics: dict[str, dict[str, float]], **changes: Any) -> dict[str, Any]:
    """A row of history.jsonl in which the coordinator sent 1 MB to every site and got 2 MB back."""
    sites = {site: {"bytes_sent": 10**6, "bytes_received": 2 * 10**6, "metrics": m} for site, m in metrics.items()}
    return {"round": number, "stage": stage, "complete": True, "rejected": {}, "sites": sites} | changes


HISTORY = [
    row(1, "declare", {"north": {"cases/liver": 13.0}, "south": {"cases/spleen": 6.0}}),
    row(2, "train-local", {"north": {"loss": 1.0, "dice/liver": 0.5}, "south": {"loss": 1.2, "dice/spleen": 0.3}}),
    row(3, "train", {"north": {"loss": 0.8, "dice/liver": 0.6}}, rejected={"south": "found <NaN> in the head."}),
    row(4, "train", {}, complete=False),
    row(4, "train", {"north": {"loss": 0.7, "dice/liver": 0.7}, "south": {"loss": 0.9, "dice/spleen": 0.4}}),
]


def a_case(*, flipped: bool = False) -> ShownCase:
    """8 x 10 x 6 voxels of 10 x 10 x 20 mm: a small liver, and a spleen of which half was found."""
    truth = np.zeros((8, 10, 6), np.uint8)
    truth[2:4, 4:6, 3] = 1
    truth[6, 4:6, 3] = 2
    found = truth.copy()
    found[6, 5, 3] = 0
    hu = np.where(truth > 0, 100, -80).astype(np.int16)
    affine = np.diag([10.0, 10.0, 20.0, 1.0])
    if flipped:  # the same patient, stored left to right and with the axes in another order
        hu, truth, found = (a[::-1].transpose(2, 0, 1) for a in (hu, truth, found))
        affine = np.array([[0, -10.0, 0, 70.0], [0, 0, 10.0, 0], [20.0, 0, 0, 0], [0, 0, 0, 1]])
    return ShownCase("test_003", Volume(hu, affine), found, truth)


class Text(HTMLParser):
    """Rows of table cells, the whole visible text, and every address of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "srcset")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.in_cell:
            self.rows[-1][-1] += data.replace("\N{NO-BREAK SPACE}", " ")


def report_of(folder: Path, **changes: Any) -> Text:
    arguments = {"summary": SUMMARY, "history": HISTORY, "case": a_case()} | changes
    return Text(write_report(folder, **arguments).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(tmp_path_factory.mktemp("report"), SUMMARY, HISTORY, a_case()).read_text(encoding="utf-8")


def test_report_loads_nothing_from_anywhere(page: str) -> None:
    addresses = Text(page).addresses
    assert len(addresses) == 2
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert not re.search(r"https?:|//|@import|url\(|<script|<link", re.sub(r"base64,[^\"]*", "", page))


def test_organs_are_listed_with_dice_and_volumes_in_ml(page: str) -> None:
    rows = Text(page).rows[1:6]
    assert rows == [
        ["Liver", "0.90", "0.95", "1500 ml", "1500 ml", "+0%"],
        ["Spleen", "0.70", "0.67", "60 ml", "120 ml", "\N{MINUS SIGN}50%"],
        ["Kidneys", "0.80", "0.00", "not found", "200 ml", "\N{MINUS SIGN}100%"],
        ["Pancreas", "0.40", "-", "not found", "absent", "-"],
        ["Mean", "0.70", "", "", "", ""],
    ]


def test_sites_are_listed_with_their_traffic_and_rejected_replies(page: str) -> None:
    """Sent and received are the site's: the opposite of the coordinator's record."""
    rows = Text(page).rows
    assert ["north", "Liver (13)", "8.0 MB", "4.0 MB", "none"] in rows
    assert ["south", "Spleen (6)", "6.0 MB", "3.0 MB", "round 3: found <NaN> in the head."] in rows


def test_headline_counts_sites_finished_rounds_and_time(page: str) -> None:
    words = " ".join(Text(page).words).replace("\N{NO-BREAK SPACE}", " ")
    for said in ("0.70 mean Dice on 3 unseen CTs", "2 sites", "4 rounds", "21 MB travelled", "2 min 17 s from start"):
        assert said in words
    assert "liver and spleen" in words
    assert "synthetic phantoms" in words
    assert "torch 2.13.0" in words


def test_picture_does_not_depend_on_how_the_ct_is_stored(tmp_path: Path) -> None:
    pictures = []
    for flipped in (False, True):
        report_of(tmp_path, case=a_case(flipped=flipped))
        pictures.append((tmp_path / "report.png").read_bytes())
    assert pictures[0].startswith(b"\x89PNG")
    assert pictures[0] == pictures[1]


def test_study_without_a_phase_alone_is_shown_too(tmp_path: Path) -> None:
    assert len(report_of(tmp_path, history=HISTORY[2:]).addresses) == 2


def test_organ_that_segviz_does_not_know_by_name_is_shown_too(tmp_path: Path) -> None:
    trained = {"east": {"loss": 1.0, "dice/aorta": 0.5}}
    history = [row(1, "declare", {"east": {"cases/aorta": 4.0}}), row(2, "train", trained)]
    assert ["east", "aorta (4)", "4.0 MB", "2.0 MB", "none"] in report_of(tmp_path, history=history).rows


def test_names_cannot_bring_markup_into_the_page(tmp_path: Path) -> None:
    case = a_case()
    named = ShownCase('<img src="//evil">', case.ct, case.found, case.truth)
    assert len(report_of(tmp_path, case=named).addresses) == 2


def test_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the folder does not exist"):
        write_report(tmp_path / "nowhere", SUMMARY, HISTORY, a_case())
