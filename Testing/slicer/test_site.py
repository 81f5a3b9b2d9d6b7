"""A site that has joined, as the window shows it: rounds, who is online, and how it leaves."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import qt
import slicer
from joining import connected, make_ready
from scenes import FakeProcess, make_window
from SegVizSlicerLib.Question import askChoice
from SegVizSlicerLib.SiteKit import readKit
from SegVizSlicerLib.SiteRecord import SiteRecord


class TestJoin:
    def test_the_command_line_of_join(self, window, kit, user_folder, monkeypatch):
        make_ready(window, kit, user_folder, monkeypatch)
        window.ui.coresSpinBox.setValue(1)
        window.ui.joinButton.click()
        arguments = FakeProcess.started[-1].arguments
        site = window.federation.logic.site
        assert arguments[:3] == ["site", "join", str(kit)]
        assert arguments[3:] == [
            *("--cases", str(user_folder / "cases"), "--label-set", "liver", "--label-values", "liver=1"),
            *("--consent", "--cores", "1", "--device", "auto", "--work", str(site)),
        ]
        assert window.dependencies.asked[-1] == "federation"
        assert window.ui.joinButton.text == "Cancel"
        window.ui.joinButton.click()
        assert window.ui.federationStatus.text == "Joining was cancelled."

    def test_a_failure_is_said_in_the_core_s_words(self, window, kit, user_folder, monkeypatch):
        make_ready(window, kit, user_folder, monkeypatch)
        window.ui.joinButton.click()
        FakeProcess.started[-1].fail("This site is not registered: ask the coordinator.")
        assert window.ui.federationStatus.text == "This site is not registered: ask the coordinator."
        assert window.ui.joinButton.text == "Join"

    def test_an_address_typed_by_hand_is_used(self, window, kit, user_folder, monkeypatch):
        make_ready(window, kit, user_folder, monkeypatch)
        window.ui.addressEdit.setText("127.0.0.1:9999")
        connected(window, monkeypatch)
        window.ui.joinButton.click()
        used = Path(FakeProcess.started[-1].arguments[2])
        assert readKit(used).address == "127.0.0.1:9999"

    def test_segmenting_works_while_a_site_trains(self, window, kit, user_folder, monkeypatch, a_ct):
        from scenes import write_model

        write_model(user_folder / "models" / "m.safetensors")
        window.segment.refreshModels()
        window.ui.inputSelector.setCurrentNode(a_ct)
        monkeypatch.setattr(window.federation.logic, "joined", lambda: True)
        window.updateGUI()
        assert window.ui.applyButton.enabled
        assert window.ui.joinButton.text == "Leave"
        monkeypatch.undo()


def test_the_history_is_what_the_site_has_written(tmp_path):
    rows = [
        {"event": "state", "state": "online", "message": "Connected; waiting for the next round."},
        {"event": "round", "round": 1, "stage": "train"},
        {"event": "progress", "round": 1, "stage": "train", "done": 7, "total": 12},
        {
            "event": "answered",
            "round": 1,
            "stage": "train",
            "seconds": 2.5,
            "metrics": {"loss": 0.5, "dice/liver": 0.7},
        },
        {"event": "round", "round": 2, "stage": "train"},
        {"event": "progress", "round": 2, "stage": "train", "done": 3, "total": 12},
    ]
    (tmp_path / "status.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"event": "answ')
    sent = {"event": "sent", "settings": {"round": 1}, "arrays": {"update": {"arrays": 3, "bytes": 4_000_000}}}
    (tmp_path / "audit.jsonl").write_text(json.dumps(sent) + "\n")
    record = SiteRecord(tmp_path)
    status = record.read()
    assert status.rounds[1].loss == 0.5
    assert status.rounds[1].dice == {"liver": 0.7}
    assert status.rounds[1].mbSent == 4.0
    assert (status.round, status.done, status.total) == (2, 3, 12)
    assert status.message == "The site ended by itself; join again to go on."
    with (tmp_path / "status.jsonl").open("a") as file:
        file.write('ered", "round": 2, "stage": "train", "seconds": 1, "metrics": {"loss": null}}\n')
    assert record.read().rounds[2].seconds == 1
    assert record.read().rounds[1].mbSent == 4.0


def test_rounds_are_shown_as_table_and_plot(window, tmp_path):
    rows = [{"event": "state", "state": "online", "message": "Connected; waiting for the next round."}]
    for number in (1, 2, 3):
        rows += [{"event": "round", "round": number, "stage": "train"}]
        metrics = {"loss": 1 / number, "dice/liver": 0.2 * number}
        rows += [{"event": "answered", "round": number, "stage": "train", "seconds": 2, "metrics": metrics}]
    (tmp_path / "status.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status = SiteRecord(tmp_path).read()
    status.running = True
    window.federation.rounds.showStatus(status)
    table = window.ui.historyTable
    assert [table.item(0, column).text() for column in (0, 2, 3)] == ["3", "0.3333", "liver 0.600"]
    window.ui.plotButton.click()
    chart = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLPlotChartNode")
    assert chart.GetTitle() == "SegViz rounds"
    nodes = slicer.mrmlScene.GetNodesByClass("vtkMRMLTableNode")
    values = slicer.util.arrayFromTableColumn(nodes.GetItemAsObject(0), "Dice")
    assert np.allclose(values, [0.2, 0.4, 0.6])


def test_a_finished_study_s_model_appears_in_the_segment_list(window, user_folder):
    from scenes import write_model

    site = user_folder / "sites" / "demo-north"
    (site / "work").mkdir(parents=True)
    write_model(site / "work" / "meta_model.safetensors", study="together")
    window.federation.logic.site = site
    window.federation.follow()
    assert window.ui.modelSelector.currentText.startswith("together")


def test_a_study_that_finished_while_slicer_was_closed_is_found_at_the_next_start(user_folder):
    from scenes import write_model

    write_rows(user_folder / "sites" / "older", {"event": "state", "state": "left", "message": "Left long ago."})
    os.utime(user_folder / "sites" / "older" / "status.jsonl", (0, 0))
    site = user_folder / "sites" / "demo-north"
    write_rows(site, {"event": "state", "state": "finished", "message": "The study is finished."})
    (site / "work").mkdir()
    write_model(site / "work" / "meta_model.safetensors", study="together")
    window = make_window(user_folder)
    assert window.ui.modelSelector.currentText.startswith("together")
    assert window.ui.federationStatus.text == "The study is finished."
    # What its user deletes or deselects afterwards stays so.
    for path in (user_folder / "models").iterdir():
        path.unlink()
    again = make_window(user_folder)
    assert again.segment.models == []


def test_withdraw_after_a_restart_deletes_what_the_site_has_kept(user_folder, kit, monkeypatch):
    window = make_window(user_folder)
    make_ready(window, kit, user_folder, monkeypatch)
    site = window.federation.logic.siteFolder(readKit(kit))
    write_rows(site, {"event": "state", "state": "left", "message": "Left."})
    again = make_window(user_folder)
    again.federation.labelSet.offer(())
    make_ready(again, kit, user_folder, monkeypatch)
    again.ui.withdrawButton.click()
    assert again.ui.federationStatus.text == "Consent withdrawn; the site's state was deleted."
    assert not site.exists()


def test_what_withdraw_cannot_delete_is_named(window, kit, user_folder, monkeypatch):
    make_ready(window, kit, user_folder, monkeypatch)
    site = window.federation.logic.siteFolder(readKit(kit))
    site.mkdir(parents=True)

    def refused(path):
        raise PermissionError(13, "Access is denied", str(path))

    monkeypatch.setattr("SegVizSlicerLib.FederationLogic.shutil.rmtree", refused)
    window.ui.withdrawButton.click()
    assert window.ui.federationStatus.text == (
        f"Consent withdrawn, but {site} could not be deleted (Access is denied): delete it by hand."
    )


def write_rows(site, *rows):
    site.mkdir(parents=True, exist_ok=True)
    (site / "status.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


ONLINE = {"event": "state", "state": "online", "message": "Round 3 of 20: training together."}
ROUND = {"event": "round", "round": 3, "stage": "train", "rounds": 20, "online": 3, "members": 4, "sites": ["a", "b"]}
STEP = {"event": "progress", "round": 3, "stage": "train", "done": 7, "total": 12}


def test_who_is_online_and_what_happens_now_are_shown(window, tmp_path):
    write_rows(tmp_path, ONLINE, ROUND, STEP)
    status = SiteRecord(tmp_path).read()
    status.running, status.state = True, "online"
    window.federation.rounds.showStatus(status)
    assert window.ui.federationStatus.text == "Round 3/20: training together, step 7 of 12."
    assert window.ui.onlineLabel.text == "3 of 4 sites online; in this round: a, b."


def test_a_site_that_waits_says_for_whom(window, tmp_path):
    answered = {"event": "answered", "round": 3, "stage": "train", "seconds": 2, "metrics": {}}
    waiting = "Round 3 of 20 is answered; waiting for 1 other site (b)."
    write_rows(tmp_path, ONLINE, ROUND, STEP, answered, {"event": "state", "state": "online", "message": waiting})
    status = SiteRecord(tmp_path).read()
    status.running, status.state, status.message = True, "online", waiting
    window.federation.rounds.showStatus(status)
    assert window.ui.federationStatus.text == waiting


@pytest.fixture
def joined(window, tmp_path, monkeypatch):
    """A window whose site is in the middle of a round; `left` and `after` count what was asked of the site."""
    logic = window.federation.logic
    write_rows(tmp_path, ONLINE, ROUND, STEP)
    logic.site = tmp_path
    window.asked, window.left, window.after = [], [], []
    monkeypatch.setattr("SegVizSlicerLib.SiteRecord.isRunning", lambda site: True)
    monkeypatch.setattr(logic, "joined", lambda: True)
    monkeypatch.setattr(logic, "leave", lambda onFinished: window.left.append(1))
    monkeypatch.setattr(logic, "leaveAfterRound", lambda: window.after.append(1))
    window.updateGUI()
    yield window
    window.federation.ask = lambda question, answers: 0
    monkeypatch.undo()


def test_apply_is_disabled_while_the_site_works_on_the_gpu_and_comes_back_by_itself(joined, tmp_path):
    def add(*rows):
        with (tmp_path / "status.jsonl").open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
        updated.clear()
        joined.federation.follow()
        return joined.federation.gpuBusy(), bool(updated)

    updated: list[int] = []
    joined.segment.update = lambda: updated.append(1)
    request, end = {**ROUND, "device": "cuda"}, {"round": 3, "stage": "evaluate"}
    answered = {"event": "answered", **end, "seconds": 2, "metrics": {}}
    assert add() == (False, False)  # it has not said what it works on
    assert add({"event": "ready", "training_cases": 2, "validation_cases": 0, "device": "cuda"}) == (False, False)
    assert add(request, ONLINE) == (True, True)  # before its first step, too
    assert add(STEP) == (True, False)
    assert add(answered, {**ONLINE, "message": "waiting"}) == (False, True)
    assert add(request) == (True, True)
    assert add({"event": "stopped", **end}) == (False, True)
    assert add(request, STEP) == (True, True)
    message = "The graphics card has too little free memory; the processor does the work of this round."
    assert add({"event": "device", "device": "cpu", "message": message}, STEP) == (False, True)
    assert joined.ui.federationStatus.text == f"Round 3/20: training together, step 7 of 12. {message}"
    assert add(request, {"event": "state", "state": "failed", "message": "It failed."}) == (False, False)


def answer(window, text):
    """Answer the next question with the button `text`; "" closes the dialog."""

    def ask(question, answers):
        window.asked.append(question)
        return list(answers).index(text) if text else -1

    window.federation.ask = ask


@pytest.mark.parametrize(
    "text, left, after", [("Leave after this round", 0, 1), ("Leave now", 1, 0), ("Go on", 0, 0), ("", 0, 0)]
)
def test_closing_slicer_asks_what_the_site_shall_do(joined, text, left, after):
    answer(joined, text)
    joined.cleanup()
    joined.cleanup(closing=False)
    assert joined.asked == ["This site takes part in a federation. What shall it do after Slicer has closed?"]
    assert (len(joined.left), len(joined.after)) == (left, after)


@pytest.mark.parametrize("text, left, after", [("Leave after this round", 0, 1), ("Leave now", 1, 0), ("", 0, 0)])
def test_leaving_within_a_round_asks_whether_to_finish_it(joined, text, left, after):
    answer(joined, text)
    joined.ui.joinButton.click()
    assert joined.asked == ["This site is in the middle of a round. Leaving now gives up its work of this round."]
    assert (len(joined.left), len(joined.after)) == (left, after)


def test_a_second_click_leaves_at_once(joined):
    joined.federation.logic.status().state = "leaving"
    joined.ui.joinButton.click()
    assert joined.asked == []
    assert len(joined.left) == 1


def test_a_question_in_a_real_dialog_gives_the_button_that_was_pressed(user_folder):
    def press():
        box = next(w for w in slicer.app.topLevelWidgets() if isinstance(w, qt.QMessageBox) and w.visible)
        next(button for button in box.buttons() if button.text == "Leave now").click()

    qt.QTimer.singleShot(50, press)
    assert askChoice("Leave?", ("Leave after this round", "Leave now")) == 1
