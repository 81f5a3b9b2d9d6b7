"""Planted faults: what Slicer would refuse, print or ignore, the harness must turn into a failure."""

import inspect
import pathlib
import typing
from pathlib import Path

import ctk
import pytest
import qt
import slicer
import slicer.packaging
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper
from slicer_harness import documented, qmrml, swallowed

UI = """<?xml version="1.0" encoding="UTF-8"?>
<ui version="4.0"><class>Panel</class>
 <widget class="qMRMLWidget" name="Panel"><layout class="QVBoxLayout" name="layout">
  <item><widget class="{kind}" name="selector">{extra}</widget></item></layout></widget>
 <connections><connection><sender>{sender}</sender><signal>{signal}</signal>
  <receiver>selector</receiver><slot>{slot}</slot></connection></connections></ui>"""
GOOD = {"kind": "qMRMLNodeComboBox", "extra": "", "sender": "Panel"}
GOOD |= {"signal": "mrmlSceneChanged(vtkMRMLScene*)", "slot": "setMRMLScene(vtkMRMLScene*)"}


def load_ui(folder: Path, **changes: str) -> typing.Any:
    path = folder / "panel.ui"
    path.write_text(UI.format(**GOOD | changes), encoding="utf-8")
    return slicer.util.loadUI(str(path))


def test_properties_are_values_and_children_are_attributes(tmp_path):
    panel = load_ui(tmp_path)
    button = qt.QPushButton("Apply")
    assert button.text == "Apply"
    with pytest.raises(TypeError, match="not callable"):
        button.text()
    assert panel.selector is slicer.util.childWidgetVariables(panel).selector
    assert panel.name == "Panel"


def test_assigning_an_unknown_attribute_raises():
    button = qt.QPushButton()
    with pytest.raises(AttributeError, match="no attribute named 'enable'"):
        button.enable = False
    button.enabled = False
    assert not button.isEnabled()


def test_assigning_a_method_or_a_read_only_property_raises():
    button = qt.QPushButton()
    with pytest.raises(AttributeError, match="cannot be overwritten"):
        button.setText = "Apply"
    with pytest.raises(AttributeError, match="not writable"):
        button.width = 3


def test_assigning_a_wrong_type_raises():
    with pytest.raises(TypeError):
        qt.QPushButton().text = 3


def test_a_string_connect_to_an_unknown_signal_raises():
    button = qt.QPushButton()
    for signature in ("clickd(bool)", "clicked(int)", "clicked(bool,bool)"):
        with pytest.raises(RuntimeError, match="has no signal"):
            button.connect(signature, lambda: None)
    with pytest.raises(RuntimeError, match="has no signal"):
        slicer.qMRMLNodeComboBox().connect("currentNodeChanged(QString)", lambda: None)


def test_a_slot_gets_as_many_arguments_as_it_declares():
    button, seen = qt.QPushButton(), []
    button.checkable = True
    button.connect("toggled(bool)", lambda: seen.append("none"))
    button.connect("toggled(bool)", lambda checked: seen.append(checked))
    button.checked = True
    assert seen == ["none", True]


def test_a_disconnect_of_nothing_raises():
    with pytest.raises(RuntimeError, match="nothing is connected"):
        qt.QPushButton().disconnect("clicked(bool)", print)


def test_the_ui_loader_refuses_unknown_classes_properties_and_connections(tmp_path):
    assert load_ui(tmp_path).selector is not None
    with pytest.raises(RuntimeError, match="uses ctkFancyBox, which has no stand-in"):
        load_ui(tmp_path, kind="ctkFancyBox")
    with pytest.raises(RuntimeError, match="documents no property 'nodeKinds'"):
        load_ui(tmp_path, extra='<property name="nodeKinds"><string>x</string></property>')
    with pytest.raises(RuntimeError, match="has no signal 'sceneChanged"):
        load_ui(tmp_path, signal="sceneChanged(vtkMRMLScene*)")
    with pytest.raises(RuntimeError, match="has no slot 'setScene"):
        load_ui(tmp_path, slot="setScene(vtkMRMLScene*)")
    with pytest.raises(RuntimeError, match="connects 'Pannel'"):
        load_ui(tmp_path, sender="Pannel")


def test_an_exception_in_a_slot_is_not_lost():
    button = qt.QPushButton()
    button.clicked.connect(lambda: 1 / 0)
    button.click()
    assert [type(error) for error in swallowed] == [ZeroDivisionError]
    swallowed.clear()


def test_a_string_list_is_a_tuple():
    selector, browser = slicer.qMRMLNodeComboBox(), qt.QTextBrowser()
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    browser.searchPaths = ["a", "b"]
    assert selector.nodeTypes == ("vtkMRMLScalarVolumeNode",)
    assert browser.searchPaths == ("a", "b")


def test_the_module_parent_accepts_documented_attributes_only():
    from slicer_harness.modules import ScriptedModule

    module = ScriptedModule("M", pathlib.Path("M.py"))
    module.title = "M"
    with pytest.raises(AttributeError, match="no attribute named 'tittle'"):
        module.tittle = "M"


def test_virtual_getters_stay_methods():
    assert qt.QLabel("text").sizeHint().width() > 0
    assert qt.QVBoxLayout().spacing() >= -1


def test_enums_compare_with_integers():
    assert qt.Qt.Checked == 2
    assert int(qt.QMessageBox.Yes) == 0x4000


def test_children_are_found_by_class_name_and_object_name(tmp_path):
    panel = load_ui(tmp_path)
    assert panel.findChild("qMRMLNodeComboBox", "selector") is panel.selector
    assert panel.findChild("QPushButton", "selector") is None


@pytest.mark.parametrize("name", sorted(documented.WIDGETS))
def test_a_stand_in_offers_documented_names_only(name):
    cls = getattr(slicer, name, None) or getattr(ctk, name)
    shown = {entry for entry in vars(cls) if not entry.startswith("_")} - documented.OVERRIDES
    shown -= {"staticMetaObject", "currentNodeChangedValid", "Dirs", "Files", "Writable"}
    assert shown <= documented.WIDGETS[name].names
    with pytest.raises(AttributeError, match="no attribute named"):
        cls().notDocumented = 1


def test_every_stand_in_is_documented():
    assert {cls.__name__ for cls in qmrml.CLASSES if cls.__name__.startswith("qMRML")} <= documented.WIDGETS.keys()
    assert qt.STAND_INS.keys() <= documented.WIDGETS.keys()


class TestParameterNodes:
    @staticmethod
    def wrap(annotation: typing.Any, default: typing.Any = None) -> typing.Any:
        cls = type("Parameters", (), {"__annotations__": {"field": annotation}, "field": default})
        return parameterNodeWrapper(cls)(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))

    @staticmethod
    def gui(widget: typing.Any, name: str = "field") -> typing.Any:
        widget.setProperty("SlicerParameterName", name)
        ui = type("Ui", (), {})()
        ui.widget = widget
        return ui

    def test_a_field_follows_its_widget_and_the_other_way_round(self):
        node, box = self.wrap(bool, False), qt.QCheckBox()
        tag = node.connectGui(self.gui(box))
        box.checked = True
        assert node.field is True
        node.field = False
        assert not box.checked
        node.disconnectGui(tag)
        box.checked = True
        assert node.field is False

    def test_a_subclass_or_another_class_of_widget_raises(self):
        class Box(qt.QCheckBox): ...

        for widget in (Box(), qt.QRadioButton(), qt.QSpinBox()):
            with pytest.raises(RuntimeError, match="Unable to create GUI connector"):
                self.wrap(bool, False).connectGui(self.gui(widget))

    def test_a_combo_box_needs_choices(self):
        with pytest.raises(RuntimeError, match="Unable to create GUI connector"):
            self.wrap(str, "a").connectGui(self.gui(qt.QComboBox()))
        self.wrap(typing.Annotated[str, Choice(["a", "b"])], "a").connectGui(self.gui(qt.QComboBox()))

    def test_an_unknown_field_raises(self):
        node = self.wrap(bool, False)
        with pytest.raises(AttributeError, match="no parameter 'feild'"):
            node.feild = True
        with pytest.raises(ValueError, match="Cannot find a param with the given name: feild"):
            node.connectGui(self.gui(qt.QCheckBox(), "feild"))

    def test_a_wrong_value_raises(self):
        with pytest.raises(TypeError, match="expected bool"):
            self.wrap(bool, False).field = 1
        with pytest.raises(ValueError, match="outside"):
            self.wrap(typing.Annotated[int, WithinRange(1, 8)], 1).field = 9
        with pytest.raises(TypeError, match="expected vtkMRMLScalarVolumeNode"):
            self.wrap(slicer.vtkMRMLScalarVolumeNode).field = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode")

    def test_a_type_without_serializer_raises(self):
        with pytest.raises(TypeError, match="Unable to create serializer"):
            self.wrap(dict, {})


class TestPackaging:
    def test_requirements_with_options_pins_or_forbidden_packages_raise(self, tmp_path):
        path = tmp_path / "requirements.txt"
        for line, why in (("-r other.txt", "options"), ("numpy==1.0", "must not pin"), ("torch>=2", "must not be")):
            path.write_text(line)
            with pytest.raises(ValueError, match=why):
                slicer.packaging.load_requirements(path)

    def test_a_request_names_its_requester(self):
        with pytest.raises(TypeError, match="say who asks"):
            slicer.packaging.pip_ensure([])

    def test_nothing_is_installed_under_testing(self, monkeypatch):
        monkeypatch.setattr(slicer.app, "_testing", True)
        slicer.packaging.requests.clear()
        slicer.packaging.pip_ensure(["no-such-package>=1"], requester="SegViz")
        assert slicer.packaging.requests == []

    def test_an_install_without_blocking_needs_a_listener(self):
        with pytest.raises(TypeError, match="somebody has to hear the end"):
            slicer.packaging.pip_install(["x"], blocking=False)


def test_no_file_of_the_harness_copies_slicers():
    for path in Path(inspect.getfile(documented)).parent.rglob("*.py"):
        assert "Brigham and Women" not in path.read_text(encoding="utf-8")
