"""Stand-in of slicer.parameterNodeWrapper: typed fields on a parameter node, bound to widgets by exact class.

Own code for the documented interface; a type without serializer, a widget without connector, an unknown field and a
wrong value raise. Fields: bool, int, float, str, pathlib.Path, enum.Enum, MRML nodes (also `X | None`).
"""

import enum
import pathlib
import types
import typing
from typing import Any

import ctk
import qt
import slicer
import vtk

__all__ = ["Choice", "WithinRange", "parameterNodeWrapper"]


_connected: dict[tuple[int, int], Any] = {}
"""Wrappers with an observer: Python's collector would take the callback while VTK's node still holds it, and crash."""


class WithinRange:
    """Annotation: an int or float stays within [minimum, maximum]."""

    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum


class Choice:
    """Annotation: one of the values."""

    def __init__(self, choices: list[Any]) -> None:
        self.choices = choices


class _Field:
    def __init__(self, name: str, annotation: Any, default: Any) -> None:
        self.name = name
        self.annotations = getattr(annotation, "__metadata__", ())
        kind = typing.get_args(annotation)[0] if self.annotations else annotation
        alternatives = [entry for entry in typing.get_args(kind) if entry is not type(None)]
        self.optional = isinstance(kind, types.UnionType)
        self.kind = alternatives[0] if self.optional else kind
        self.is_node = isinstance(self.kind, type) and issubclass(self.kind, slicer.vtkMRMLNode)
        if not self.is_node and not issubclass(self.kind, (bool, int, float, str, pathlib.Path, enum.Enum)):
            raise TypeError(f"Unable to create serializer for member {name}: {self.kind}")
        self.default = default if default is not None or self.is_node else self._empty()

    def _empty(self) -> Any:
        return next(iter(self.kind)) if issubclass(self.kind, enum.Enum) else self.kind()

    def check(self, value: Any) -> None:
        if self.is_node:
            if value is not None and not value.IsA(self.kind.__name__):
                raise TypeError(f"{self.name}: expected {self.kind.__name__}, found {value.GetClassName()}")
            return
        if not isinstance(value, self.kind) or (self.kind is int and isinstance(value, bool)):
            raise TypeError(f"{self.name}: expected {self.kind.__name__}, found {value!r}")
        for annotation in self.annotations:
            if isinstance(annotation, WithinRange) and not annotation.minimum <= value <= annotation.maximum:
                raise ValueError(f"{self.name}: {value} is outside [{annotation.minimum}, {annotation.maximum}]")
            if isinstance(annotation, Choice) and value not in annotation.choices:
                raise ValueError(f"{self.name}: {value!r} is not one of {annotation.choices}")

    def read(self, node: Any) -> Any:
        if self.is_node:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if not text and self.kind is not str:  # the scene was closed: parameters are gone, the default comes back
            return self.default
        if issubclass(self.kind, enum.Enum):
            return self.kind[text]
        return text == "True" if self.kind is bool else self.kind(text)

    def write(self, node: Any, value: Any) -> None:
        self.check(value)
        if self.is_node:
            node.SetNodeReferenceID(self.name, None if value is None else value.GetID())
        else:
            node.SetParameter(self.name, value.name if isinstance(value, enum.Enum) else str(value))


def parameterNodeWrapper(cls: type) -> type:
    """Class decorator: annotated fields become properties stored in the parameter node."""
    fields = {
        name: _Field(name, annotation, getattr(cls, name, None))
        for name, annotation in typing.get_type_hints(cls, include_extras=True).items()
    }

    class Wrapper:
        def __init__(self, node: Any) -> None:
            self.__dict__.update(parameterNode=node, _bindings={}, _updating=False)
            for field in fields.values():
                if not field.is_node and node.GetParameter(field.name) == "":
                    field.write(node, field.default)

        def __getattr__(self, name: str) -> Any:
            if name not in fields:
                raise AttributeError(f"{cls.__name__} has no parameter '{name}'")
            return fields[name].read(self.parameterNode)

        def __setattr__(self, name: str, value: Any) -> None:
            if name not in fields:
                raise AttributeError(f"{cls.__name__} has no parameter '{name}'")
            fields[name].write(self.parameterNode, value)

        def AddObserver(self, event: Any, callback: Any, priority: float = 0.0) -> Any:
            return self.parameterNode.AddObserver(event, callback, priority)

        def RemoveObserver(self, tag: int) -> None:
            self.parameterNode.RemoveObserver(tag)

        def HasObserver(self, *args: Any) -> Any:
            return self.parameterNode.HasObserver(*args)

        def connectGui(self, gui: Any) -> int:
            """Bind every widget that names a parameter; raises where no connector fits."""
            bound = []
            for widget in vars(gui).values():
                name = widget.property("SlicerParameterName")
                if not name:
                    continue
                if name not in fields:
                    raise ValueError(f"Cannot find a param with the given name: {name}")
                bound.append((fields[name], _Connector(widget, fields[name])))
            tag = len(self._bindings)
            self._bindings[tag] = bound
            self._write_to_gui()
            for field, connector in bound:
                connector.connect(lambda field=field, connector=connector: self._read_from_gui(field, connector))
            observer = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._write_to_gui())
            _connected[id(self), tag] = (self, observer)
            return tag

        def disconnectGui(self, tag: int) -> None:
            if (id(self), tag) in _connected:
                self.RemoveObserver(_connected.pop((id(self), tag))[1])
            for _field, connector in self._bindings.pop(tag, []):
                connector.disconnect()

        def _read_from_gui(self, field: _Field, connector: "_Connector") -> None:
            if not self._updating:
                field.write(self.parameterNode, connector.read())

        def _write_to_gui(self) -> None:
            if self._updating:
                return
            self.__dict__["_updating"] = True
            try:
                for bound in self._bindings.values():
                    for field, connector in bound:
                        connector.write(field.read(self.parameterNode))
            finally:
                self.__dict__["_updating"] = False

    Wrapper.__name__ = cls.__name__
    return Wrapper


class _Connector:
    """One widget and one field; the class must match exactly, as in Slicer."""

    def __init__(self, widget: Any, field: _Field) -> None:
        self._widget, self._callback = widget, None
        self._signal, self.read, self.write = self._accessors(widget, field)

    def connect(self, callback: Any) -> None:
        self._callback = lambda *_: callback()
        self._signal.connect(self._callback)

    def disconnect(self) -> None:
        if self._callback is not None:
            self._signal.disconnect(self._callback)

    @staticmethod
    def _accessors(w: Any, field: _Field) -> tuple[Any, Any, Any]:
        kind, cls = field.kind, type(w)
        if field.is_node and cls is slicer.qMRMLNodeComboBox:
            return w.currentNodeChanged, w.currentNode, w.setCurrentNode
        if kind is bool and cls is qt.QCheckBox:
            return w.toggled, lambda: w.checked, w.setChecked
        if kind is int and cls is qt.QSpinBox:
            return w.valueChanged, lambda: w.value, w.setValue
        if kind is str and cls is qt.QLineEdit:
            return w.textChanged, lambda: w.text, w.setText
        if issubclass(kind, pathlib.Path) and cls is ctk.ctkPathLineEdit:
            return w.currentPathChanged, lambda: kind(w.currentPath), lambda value: w.setCurrentPath(str(value))
        if cls is qt.QComboBox and (choices := _choices(field)):
            w.clear()
            w.addItems([label for label, _value in choices])
            values = [value for _label, value in choices]
            return w.currentIndexChanged, lambda: values[w.currentIndex], lambda v: w.setCurrentIndex(values.index(v))
        raise RuntimeError(f"Unable to create GUI connector from datatype '{kind}' to widget type '{cls}'")


def _choices(field: _Field) -> list[tuple[str, Any]]:
    if isinstance(field.kind, type) and issubclass(field.kind, enum.Enum):
        label = getattr(field.kind, "label", lambda value: value.name)
        return [(label(value), value) for value in field.kind]
    choice = next((entry for entry in field.annotations if isinstance(entry, Choice)), None)
    return [(str(value), value) for value in choice.choices] if choice else []
