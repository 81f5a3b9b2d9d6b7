"""PythonQt's manners on PySide6, and an exception wherever PythonQt would only print or stay silent.

In Slicer `button.text` is a value, `button.enabled = False` sets a property, `button.enable = 1` raises, a child is an
attribute under its object name, and signals connect by their C++ signature. PySide6 does none of it.
"""

import enum
import re
import types
from collections.abc import Callable, Iterator
from typing import Any

import shiboken6
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

from slicer_harness import documented

MODULES = (QtCore, QtGui, QtWidgets, QtUiTools)
VIRTUAL_GETTERS = {"sizeHint", "minimumSizeHint", "spacing", "duration", "contentsMargins", "viewportSizeHint"}
"""C++ looks these up by name as overrides: turned into properties, C++ would call itself without end."""

_SIGNATURE = re.compile(r"^\d?\s*(\w+)\s*(?:\((.*)\))?$")
_native: set[type] = set()
_connections: dict[tuple[int, str], list[tuple[Any, Callable[..., None]]]] = {}


def names() -> dict[str, Any]:
    """Everything that `import qt` offers, by name."""
    found: dict[str, Any] = {}
    for module in reversed(MODULES):
        found |= {name: getattr(module, name) for name in dir(module) if name[0] == "Q" or name in ("Signal", "Slot")}
    return found


def install() -> None:
    """Patch PySide6's classes, once per process."""
    for candidate in names().values():
        if isinstance(candidate, type) and issubclass(candidate, QtCore.QObject) and candidate not in _native:
            _native.add(candidate)
            _patch(candidate)
    base = QtCore.QObject
    base.name = property(lambda self: self.property("objectName"), lambda self, value: self.setObjectName(value))
    base.className = lambda self: self.metaObject().className()
    base.connect, base.disconnect = _connect, _disconnect
    base.findChild, base.findChildren = _find_child, _find_children
    base.__getattr__ = _getattr
    QtWidgets.QDialog.exec_ = QtWidgets.QDialog.exec
    for name in ("getOpenFileName", "getSaveFileName", "getOpenFileNames"):  # PythonQt drops the chosen filter
        original = getattr(QtWidgets.QFileDialog, name)
        chosen = staticmethod(lambda *args, _call=original, **kwargs: _call(*args, **kwargs)[0])
        setattr(QtWidgets.QFileDialog, name, chosen)
    _make_enums_integers()


def _patch(cls: type) -> None:
    original = cls.__getattribute__

    def __getattribute__(self: Any, name: str) -> Any:
        if name == "connect":
            return types.MethodType(_connect, self)
        if name == "disconnect":
            return types.MethodType(_disconnect, self)
        return original(self, name)

    cls.__getattribute__, cls.__setattr__ = __getattribute__, _setattr
    meta = cls.staticMetaObject
    for index in range(meta.propertyOffset(), meta.propertyCount()):
        entry = meta.property(index)
        if entry.name() not in VIRTUAL_GETTERS:
            setattr(cls, entry.name(), _as_property(cls, entry.name(), entry.isWritable()))


def _as_property(cls: type, name: str, writable: bool) -> property:
    method = getattr(cls, name, None)
    setter = getattr(cls, f"set{name[0].upper()}{name[1:]}", None)

    def read(self: Any) -> Any:
        value = self.property(name)
        return tuple(value) if isinstance(value, list) else value

    def write(self: Any, value: Any) -> None:
        if not writable:
            raise AttributeError(f"property '{name}' of {type(self).__name__} is not writable")
        if setter is not None:
            setter(self, value)  # type-checks, where setProperty() ignores a wrong type in silence
        elif not self.setProperty(name, value):
            raise AttributeError(f"property '{name}' does not accept {value!r}")

    class Readable(property):  # on the class, static methods stay callable: QApplication.font(), QTimer.singleShot()
        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            return (self if method is None else method) if instance is None else read(instance)

    return Readable(read, write)


def _setattr(self: Any, name: str, value: Any) -> None:
    cls = type(self)
    by_loader = isinstance(value, QtCore.QObject) and value.property("objectName") == name
    if by_loader or isinstance(value, QtCore.SignalInstance):  # children of a .ui file; PySide caches bound signals
        self.__dict__[name] = value
        return
    for owner in cls.__mro__:
        if name not in owner.__dict__:
            continue
        found = owner.__dict__[name]
        if isinstance(found, QtCore.Property):
            if found.fset is None:
                raise AttributeError(f"property '{name}' of {cls.__name__} is not writable")
            found.fset(self, value)
        elif hasattr(type(found), "__set__"):
            type(found).__set__(found, self, value)
        elif name in VIRTUAL_GETTERS:
            self.setProperty(name, value)
        elif cls in _native or documented.is_stand_in(cls):
            raise AttributeError(f"method '{name}' of {cls.__name__} cannot be overwritten")
        else:
            self.__dict__[name] = value
        return
    strict = cls in _native or documented.is_stand_in(cls)
    if strict and not name.startswith("_"):
        if name not in [bytes(entry.data()).decode() for entry in self.dynamicPropertyNames()]:
            raise AttributeError(f"{cls.__name__} has no attribute named '{name}'")
        self.setProperty(name, value)
        return
    self.__dict__[name] = value


def _getattr(self: Any, name: str) -> Any:  # called when the normal lookup failed
    if not name.startswith("__"):
        if (value := self.property(name)) is not None:
            return value
        for child in self.children():
            if child.objectName == name:
                return child
    raise AttributeError(f"{type(self).__name__} has no attribute named '{name}'")


def _connect(self: Any, *args: Any) -> bool:
    if isinstance(args[0], QtCore.QObject):  # the static form connect(sender, signal, receiver)
        self, args = args[0], args[1:]
    signature, target = args[0], args[1]
    if isinstance(target, QtCore.QObject):
        target = _slot(target, args[2])
    signal, count = _signal(self, signature)
    limit = _accepted_arguments(target)

    def slot(*values: Any) -> None:
        target(*values[:count][:limit])

    signal.connect(slot)
    _connections.setdefault(_key(self, signature), []).append((target, slot))
    return True


def _disconnect(self: Any, *args: Any) -> bool:
    if not args or not isinstance(args[0], str):
        raise TypeError("disconnect: expected a signal's signature, as PythonQt does")
    signal, _count = _signal(self, args[0])
    entries = _connections.get(_key(self, args[0]), [])
    gone = [entry for entry in entries if len(args) == 1 or entry[0] == args[1]]
    for entry in gone:
        signal.disconnect(entry[1])
        entries.remove(entry)
    if not gone:
        raise RuntimeError(f"{self.className()}: nothing is connected to '{args[0]}'")
    return True


def _signal(self: Any, signature: str) -> tuple[Any, int]:
    """The bound signal of a C++ signature and how many arguments it carries; raises where PythonQt prints."""
    match = _SIGNATURE.match(signature.strip())
    name = match.group(1) if match else signature
    wanted = re.sub(r"\s+|const|&", "", (match.group(2) or "") if match else "")
    known = documented.signatures(type(self), name) or _declared_signatures(self.metaObject(), name)
    if wanted not in known:
        raise RuntimeError(f"{self.className()} has no signal '{signature}'; known: {sorted(known) or 'none'}")
    variants = {"bool": "currentNodeChangedValid"} if name == "currentNodeChanged" else {}
    return getattr(self, variants.get(wanted, name)), len(wanted.split(",")) if wanted else 0


def _declared_signatures(meta: QtCore.QMetaObject, name: str) -> set[str]:
    found = set()
    for index in range(meta.methodCount()):
        method = meta.method(index)
        if method.methodType() == QtCore.QMetaMethod.Signal and bytes(method.name().data()).decode() == name:
            found.add(",".join(bytes(kind.data()).decode() for kind in method.parameterTypes()))
    return found


def _slot(receiver: Any, signature: str) -> Callable[..., Any]:
    name = signature.strip().split("(")[0]
    if not hasattr(receiver, name):
        raise RuntimeError(f"{receiver.className()} has no slot '{signature}'")
    return getattr(receiver, name)


def _accepted_arguments(target: Callable[..., Any]) -> int | None:
    """PythonQt passes as many arguments as the function declares, defaults included."""
    bound = isinstance(target, types.MethodType)
    function = target.__func__ if bound else target
    code = getattr(function, "__code__", None)
    if code is None or code.co_flags & 4:
        return None
    return code.co_argcount - bound


def _key(self: Any, signature: str) -> tuple[int, str]:
    return shiboken6.getCppPointer(self)[0], signature.split("(")[0]


def _descendants(parent: Any) -> Iterator[Any]:
    for child in parent.children():
        yield child
        yield from _descendants(child)


def _is_kind(candidate: Any, kind: Any) -> bool:
    if not isinstance(kind, str):
        return isinstance(candidate, kind)
    meta = candidate.metaObject()
    while meta and meta.className() != kind:
        meta = meta.superClass()
    return bool(meta)


def _find_children(self: Any, kind: Any = QtCore.QObject, name: str = "") -> list[Any]:
    return [child for child in _descendants(self) if _is_kind(child, kind) and name in ("", child.objectName)]


def _find_child(self: Any, kind: Any = QtCore.QObject, name: str = "") -> Any:
    return next(iter(_find_children(self, kind, name)), None)


def _make_enums_integers() -> None:
    def equal(self: enum.Enum, other: Any) -> bool:
        return self.value == other if type(other) is int else self is other

    holders = [QtCore.Qt, *(value for value in names().values() if isinstance(value, type))]
    for kind in [member for holder in holders for member in list(vars(holder).values())]:
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            kind.__int__ = kind.__index__ = lambda self: self.value
            if not issubclass(kind, int):
                kind.__eq__ = equal
                kind.__hash__ = lambda self: hash(self.value)
