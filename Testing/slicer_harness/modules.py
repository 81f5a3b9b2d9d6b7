"""Load a scripted module as Slicer's module factory does, with the module object it is handed."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

_ASSIGNABLE = {
    "title",
    "categories",
    "contributors",
    "associatedNodeTypes",
    "helpText",
    "acknowledgementText",
    "icon",
    "hidden",
    "dependencies",
    "index",
    "widgetRepresentationCreationEnabled",
}


class ScriptedModule:
    """What a scripted module gets as `parent`: assigning anything else raises, as in Slicer."""

    def __init__(self, name: str, path: Path) -> None:
        self.__dict__.update(name=name, path=str(path), _panel=None)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _ASSIGNABLE:
            raise AttributeError(f"qSlicerScriptedLoadableModule has no attribute named '{name}'")
        self.__dict__[name] = value

    def widgetRepresentation(self) -> Any:
        """The module panel, made and entered on the first call."""
        if self.__dict__["_panel"] is None:
            import qt
            import slicer

            panel = ModulePanel.make(self.name)
            panel.setLayout(qt.QVBoxLayout())
            panel.setMRMLScene(slicer.mrmlScene)
            self.__dict__["_panel"] = panel
            panel.reload()
            panel.enter()
        return self.__dict__["_panel"]


class ModulePanel:
    """Makes the qSlicerScriptedLoadableModuleWidget of a module; a class only to delay the import of `slicer`."""

    @staticmethod
    def make(name: str) -> Any:
        import slicer

        class Panel(slicer.qMRMLWidget):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.isEntered = False

            def self(self) -> Any:
                return getattr(slicer.modules, f"{name}Widget")

            def reload(self) -> None:
                widget = getattr(sys.modules[name], f"{name}Widget")(self)
                setattr(slicer.modules, f"{name}Widget", widget)
                widget.setup()

            def enter(self) -> None:
                self.isEntered = True
                self.self().enter()

            def exit(self) -> None:
                self.isEntered = False
                self.self().exit()

        return Panel()


def load_module(path: Path) -> ScriptedModule:
    """Import the module file and construct its module class; raises whatever that raises."""
    import slicer

    name = path.stem
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    scripted = ScriptedModule(name, path)
    setattr(slicer.modules, name.lower(), scripted)
    slicer.app.moduleManager()._modules[name] = scripted
    setattr(slicer.modules, f"{name}Instance", getattr(module, name)(scripted))
    if not scripted.title:
        raise AssertionError(f"{name}: the module sets no title")
    return scripted


def unload_module(name: str) -> None:
    """What Slicer does at exit: the module is told, then its panel goes."""
    import slicer

    slicer.app.moduleManager().moduleAboutToBeUnloaded.emit(name)
    delattr(slicer.modules, f"{name}Widget")
