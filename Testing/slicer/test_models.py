"""The list of models: read without torch, damaged files explained, imports checked."""

import os

import pytest
import qt
from scenes import make_window, write_model
from SegVizSlicerLib.Models import importModel, listModels, newestModel, readModel

from segviz_core.errors import InputError


def test_an_entry_tells_organs_dice_rounds_and_hash(tmp_path):
    entry = readModel(write_model(tmp_path / "m.safetensors", ("liver", "pancreas")))
    assert entry.title == f"demo  ·  {entry.hash[:6]}"
    assert entry.summary.splitlines() == [
        "Liver 0.71, Pancreas 0.71 (Dice at its sites)",
        "6 of 6 rounds",
        f"hash {entry.hash[:12]}",
    ]


def test_a_damaged_file_is_explained_and_hides_no_other(tmp_path):
    write_model(tmp_path / "good.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no model at all")
    entries, problems = listModels([tmp_path, tmp_path / "missing"])
    assert [entry.path.name for entry in entries] == ["good.safetensors"]
    (problem,) = problems
    assert "bad.safetensors is not a SegViz meta-model: it is not a safetensors file." in problem


def test_an_import_is_checked_and_made_once(tmp_path):
    source = write_model(tmp_path / "elsewhere" / "m.safetensors")
    first = importModel(source, tmp_path / "models")
    assert importModel(source, tmp_path / "models") == first
    other = write_model(tmp_path / "other" / "m.safetensors", study="second")
    assert importModel(other, tmp_path / "models").path.name.startswith("m-")
    (tmp_path / "x.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match="is not a SegViz meta-model"):
        importModel(tmp_path / "x.safetensors", tmp_path / "models")


def test_a_script_gets_the_newest_model(tmp_path):
    with pytest.raises(ValueError, match="Select or import a model"):
        newestModel(tmp_path)
    os.utime(write_model(tmp_path / "a.safetensors"), (1, 1))
    write_model(tmp_path / "b.safetensors")
    assert newestModel(tmp_path).path.name == "b.safetensors"


def test_the_window_remembers_the_chosen_model(user_folder):
    write_model(user_folder / "models" / "a.safetensors", study="a")
    write_model(user_folder / "models" / "b.safetensors", study="b")
    window = make_window(user_folder)
    titles = [window.ui.modelSelector.itemText(index)[0] for index in range(2)]
    window.ui.modelSelector.setCurrentIndex(titles.index("a"))
    assert make_window(user_folder).ui.modelSelector.currentText.startswith("a")
    assert qt.QSettings().value("SegViz/model") == window.segment.model().hash


def test_organs_without_a_head_cannot_be_chosen(user_folder):
    write_model(user_folder / "models" / "a.safetensors", ("liver", "stomach"))
    window = make_window(user_folder)
    assert window.ui.liverCheckBox.enabled
    assert not window.ui.spleenCheckBox.enabled
    assert window.ui.spleenCheckBox.toolTip == "The chosen model has no head for this organ."
    assert window.segment.options().organs == ("liver", "stomach")
    window.ui.otherOrgansCheckBox.checked = False
    assert window.segment.options().organs == ("liver",)


def test_a_file_that_is_no_model_is_said_in_the_window(user_folder, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"x")
    window = make_window(user_folder)
    assert window.segment.addModel(tmp_path / "x.safetensors") is None
    assert "is not a SegViz meta-model" in window.ui.statusLabel.text


def test_only_models_of_the_models_folder_can_be_deleted(user_folder):
    path = write_model(user_folder / "models" / "a.safetensors")
    window = make_window(user_folder)
    assert window.ui.deleteModelButton.enabled
    window.ui.deleteModelButton.click()
    assert not path.exists()
    assert window.ui.deleteModelButton.toolTip == "Only models of the models folder can be deleted."
