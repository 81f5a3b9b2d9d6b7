"""The dashboard's page in a real browser, while a study plays behind it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import PROGRAM, Browser
from memory_grid import as_in_a_run
from served_dashboard import served
from watched_study import MARKUP, WatchedStudy

from segviz_core.federation import strategy

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed (Testing/apt.txt names it)")

FASTER = "const later = window.setTimeout; window.setTimeout = (work, ms) => later(work, ms / 20);"
POINTS = """Object.fromEntries([...document.querySelectorAll('#dice path[data-organ]')]
    .map((path) => [path.dataset.organ, Number(path.dataset.points)]))"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    running = Browser(tmp_path_factory.mktemp("chromium"))
    running.call("Page.addScriptToEvaluateOnNewDocument", source=FASTER)
    yield running
    running.close()


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WatchedStudy]:
    as_in_a_run(monkeypatch)
    monkeypatch.setattr(strategy, "POLL_S", 0.01)
    played = WatchedStudy(tmp_path / "study", rounds=3)
    yield played
    played.end()


def doing(browser: Browser, site: str) -> str:
    row = f"[...document.querySelectorAll('#sites tbody tr')].find((row) => row.cells[0].innerText == '{site}')"
    return str(browser.evaluate(f"{row}.cells[2].innerText"))


def test_open_page_follows_the_study_from_its_start_to_its_end(browser: Browser, study: WatchedStudy) -> None:
    with served(study.folder) as url:
        browser.look()
        browser.open(url)
        browser.wait_for("document.getElementById('state').innerText == 'Not started'")
        assert "Nothing yet" in browser.evaluate("document.getElementById('dice').innerText")
        assert browser.evaluate("document.getElementById('rejections').innerText") == "None so far."
        assert browser.evaluate("document.querySelectorAll('#sites tbody tr').length") == 2

        study.start()
        browser.wait_for("document.getElementById('state').innerText == 'Running: joining'")
        study.release(4)  # both declare, south once more for its bad name; then one site has trained round 2
        browser.wait_for("document.getElementById('state').innerText == 'Running: training together'")
        browser.wait_for("document.getElementById('sites').innerText.includes('done, waits for the others')")
        assert sorted(doing(browser, site) for site in ("north", "south")) == [
            "done, waits for the others",
            "training together",
        ]
        assert browser.evaluate("document.getElementById('sites').innerText").count("● online") == 2
        rejected = browser.evaluate("document.getElementById('rejections').innerText")
        assert "expected the site name 'south'" in rejected
        assert MARKUP in rejected
        assert "node 2" not in rejected
        assert browser.evaluate("document.images.length") == 0

        study.release(3)  # the rest of round 2, and round 3
        browser.wait_for("document.title.startsWith('Running, round 3 of 6')")
        assert browser.evaluate(POINTS) == {"liver": 2, "spleen": 2}
        assert "Time left\n15 s" in browser.evaluate("document.getElementById('tiles').innerText")
        study.end()
        browser.wait_for("document.getElementById('state').innerText == 'Finished'")
        assert browser.evaluate(POINTS) == {"liver": 4, "spleen": 4}  # three rounds and `evaluate`
        assert browser.evaluate("document.querySelectorAll('#history tbody tr').length") == 6
        assert browser.evaluate("document.getElementById('rounds').value") == 6
    browser.wait_for("!document.getElementById('trouble').hidden")
    assert "does not answer" in browser.evaluate("document.getElementById('trouble').innerText")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_page_fits_a_narrow_window_in_both_colour_schemes(browser: Browser, study: WatchedStudy, dark: bool) -> None:
    study.start()
    study.end()
    with served(study.folder) as url:
        browser.look(width=360, dark=dark)
        browser.open(url)
        browser.wait_for("document.querySelectorAll('#dice svg, #loss svg').length == 2")
        assert browser.evaluate("document.documentElement.scrollWidth") <= 360
        paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)")


def test_page_says_why_a_study_cannot_be_shown(browser: Browser, study: WatchedStudy) -> None:
    with served(study.folder) as url:
        browser.open(url)
        browser.wait_for("document.getElementById('state').innerText == 'Not started'")
        (study.folder / "study.json").unlink()
        browser.wait_for("document.getElementById('trouble').innerText.includes('There is no study in')")


def test_pages_loaded_nothing_from_elsewhere_and_broke_no_rule(browser: Browser) -> None:
    """Of all pages that the tests above opened."""
    urls = [url for url in browser.requested() if not url.startswith("data:")]
    assert urls
    assert all(url.startswith("http://127.0.0.1:") for url in urls)
    expected = ("ERR_CONNECTION_REFUSED", "500 (Internal Server Error)")  # the server that ended, the study that went
    assert [line for line in browser.complaints() if not any(word in line for word in expected)] == []
