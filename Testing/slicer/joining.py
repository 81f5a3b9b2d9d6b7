"""The steps to a join on the window, for tests of what comes before it and after it."""

from scenes import FakeProcess, process_events


def choose_organ(window, title):
    selector = window.ui.labelSetSelector
    selector.setCurrentIndex([selector.itemText(i) for i in range(selector.count)].index(title))


def finish_check(window, *whys):
    cases = [
        {"name": f"c{i}", "image": f"/x/c{i}.nrrd", "label": "", "ok": not why, "why": why}
        for i, why in enumerate(whys)
    ]
    window.ui.checkCasesButton.click()
    FakeProcess.started[-1].finish(cases=cases, bad=sum(map(bool, whys)))


def consent_given(window):
    window.federation.askConsent = lambda kit, organs, parent: True
    window.ui.consentButton.click()


def connected(window, monkeypatch):
    monkeypatch.setattr("SegVizSlicerLib.Connection.connectionProblem", lambda address, certificate: "")
    window.ui.testConnectionButton.click()
    process_events(lambda: "answers" in window.ui.connectionLabel.text)


def make_ready(window, kit, user_folder, monkeypatch):
    window.ui.kitPath.setCurrentPath(str(kit))
    choose_organ(window, "Liver")
    (user_folder / "cases").mkdir(exist_ok=True)
    window.ui.casesPath.setCurrentPath(str(user_folder / "cases"))
    finish_check(window, "", "")
    connected(window, monkeypatch)
    consent_given(window)
