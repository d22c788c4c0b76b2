"""A form for a settings model: types, bounds, defaults, units and tooltips all come from `core/params.py`."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from magicgui.widgets import CheckBox, ComboBox, Container, FloatSpinBox, LineEdit, create_widget
from magicgui.widgets.bases import ValueWidget
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from qtpy.QtCore import QEvent, QObject, Signal
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import QFileDialog, QInputDialog, QLabel, QVBoxLayout, QWidget
from superqt import QCollapsible

from napari_bloodcell.core.errors import SettingsError
from napari_bloodcell.core.params import Params, Shown
from napari_bloodcell.results.recipes import explain

AUTO: Final = "auto"
OTHER: Final = "Other…"
NARROW_PX: Final = 60
"""Smallest width of a field, so that docks fit in 350 px."""
_ACRONYMS: Final = {"rbc": "RBC", "wbc": "WBC", "iou": "IoU", "kde": "KDE"}
_FOLD_STYLE: Final = "QPushButton { text-align: left; border: none } QPushButton:focus { text-decoration: underline }"
_PLACES: Final = re.compile(r"\s*\((?:paper )?(?:§|Tables? )[^)]*\)| of §[\d.]+")
"""References to the paper, which mean nothing to people who fill in a form."""


class NameChoice(ComboBox):
    """A choice of names, whose last entry asks for another name or a file."""

    def __init__(self, names: Sequence[str], *, is_file: bool = False, **options: Any) -> None:
        self._names, self._is_file, self._before = list(names), is_file, names[0]
        super().__init__(choices=lambda _widget: [(_short(name), name) for name in (*self._names, OTHER)], **options)
        self.changed.connect(self._on_changed)

    @property
    def value(self) -> Any:
        """The name, or the path."""
        return self.get_value()

    @value.setter
    def value(self, name: str) -> None:
        if name not in self._names:
            self._names.append(name)
            self.reset_choices()
        self.set_value(name)

    def offer(self, names: Sequence[str]) -> None:
        """Offer these names too."""
        fresh = [name for name in dict.fromkeys(names) if name not in self._names]
        if fresh:
            self._names += fresh
            self.reset_choices()

    def _on_changed(self, name: str) -> None:
        if name != OTHER:
            self._before = name
            return
        self.value = self._before
        found = self._ask().strip()
        if found:
            self.value = found

    def _ask(self) -> str:
        if self._is_file:
            filters = "Models (*.safetensors *.pth);;All files (*)"
            return str(QFileDialog.getOpenFileName(self.native, "Choose a model", "", filters)[0])
        return str(QInputDialog.getText(self.native, self.label, f"{self.label}:")[0])


def _short(name: str) -> str:
    """Return the name of a file without its folder and ending."""
    return Path(name).stem if name.endswith((".safetensors", ".pth")) else name


class NumberOrAuto(LineEdit):
    """A number as text, or "auto" for None; the settings model validates it."""

    def get_value(self) -> Any:
        """Return the text, or None."""
        text = str(super().get_value()).strip().replace(",", ".")
        return None if text in ("", AUTO) else text

    def set_value(self, value: Any) -> None:
        """Show a number, or None."""
        super().set_value(AUTO if value is None else f"{value:.10g}")


class SettingsForm(QWidget):
    """A form for a settings model: the settings in `first` always visible, others under "More settings".

    Settings in `without`, and those that are several numbers, have no field. `values` overrides the defaults.
    """

    changed = Signal()

    def __init__(
        self,
        model: type[Params],
        *,
        first: Sequence[str],
        without: Sequence[str] = (),
        values: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._model = model
        self._fields = {
            name: field_of(name, info)
            for name, info in model.model_fields.items()
            if name not in without and typing.get_origin(_without_none(info.annotation)) is not tuple
        }
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._containers = [Container(widgets=[self._fields[name] for name in first if name in self._fields])]
        layout.addWidget(self._containers[0].native)
        rest = [field for name, field in self._fields.items() if name not in first]
        if rest:
            self._containers.append(Container(widgets=rest))
            layout.addWidget(fold("More settings", self._containers[1].native))
        for container in self._containers:
            container.margins = (0, 0, 0, 0)
            container.changed.connect(lambda: self.changed.emit())
        for field in self._fields.values():
            field.native.setAccessibleName(field.label)
            field.native.installEventFilter(self)
        self.set_values(values or {})

    def settings(self) -> Any:
        """Return the form as an instance of the model; raise `SettingsError` if a value is not allowed."""
        values = {name: field.value for name, field in self._fields.items()}
        try:
            return self._model(**values)
        except ValidationError as error:
            raise SettingsError(f"These settings cannot be used: {explain(error, self._model)}.") from error

    def set_values(self, values: Mapping[str, Any]) -> None:
        """Show these values; names without a field are ignored."""
        for name, value in values.items():
            if name in self._fields:
                self._fields[name].value = value

    def field(self, name: str) -> ValueWidget[Any]:
        """Return the magicgui widget of a setting."""
        return self._fields[name]

    def labels(self) -> list[QLabel]:
        """Return the labels of the rows."""
        return [label for container in self._containers for label in container.native.findChildren(QLabel)]

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Leave the wheel to the scroll area, so that scrolling past a field does not change it."""
        if event is not None and event.type() == QEvent.Type.Wheel:
            event.ignore()
            return isinstance(watched, QWidget) and not watched.hasFocus()
        return bool(super().eventFilter(watched, event))


def fold(text: str, inside: QWidget) -> QCollapsible:
    """Return a button that unfolds `inside`; its arrow is text, so that it follows the theme's colour."""
    found = QCollapsible(expandedIcon=QIcon(), collapsedIcon=QIcon())
    found.setDuration(0)  # an animation would redraw the canvas on every step
    found.setContent(inside)
    button = found.toggleButton()
    button.setToolTip("Show the settings that are seldom changed, or hide them")
    button.setStyleSheet(_FOLD_STYLE)

    def show(is_open: bool) -> None:
        button.setText(f"{'▾' if is_open else '▸'} {text}")
        inside.setVisible(is_open)  # else Tab would step through hidden fields

    button.toggled.connect(show)
    found.collapse(animate=False)
    show(False)
    layout = found.layout()
    if layout is not None:
        layout.setContentsMargins(0, 6, 0, 0)
    return found


def label_of(name: str, unit: str = "") -> str:
    """Return a setting's name as a label: ``rbc_diameter_px`` in "px" becomes "RBC diameter (px)"."""
    words = name.split("_")[: -1 if unit else None]
    text = " ".join(_ACRONYMS.get(word, word) for word in words)
    return text[:1].upper() + text[1:] + (f" ({unit})" if unit else "")


def field_of(name: str, info: FieldInfo) -> ValueWidget[Any]:
    """Return the magicgui widget for a setting."""
    shown = next((one for one in info.metadata if isinstance(one, Shown)), Shown())
    kind = _without_none(info.annotation)
    field: Any
    if shown.names:
        field = NameChoice(shown.names, is_file=shown.is_file)
    elif kind is not info.annotation:
        field = NumberOrAuto()
    elif kind is float:
        field = FloatSpinBox(step=10.0**-shown.decimals, **_bounds(info, 10.0**-shown.decimals))
        field.adaptive_step = True
    else:
        field = create_widget(annotation=kind, options=_bounds(info, 1) if kind is int else {})
    field.name, field.label, field.tooltip = name, label_of(name, shown.unit), _tooltip(info)
    if isinstance(field, CheckBox):
        field.text = field.label
    field.min_width = NARROW_PX
    field.value = info.default
    return cast("ValueWidget[Any]", field)


def _tooltip(info: FieldInfo) -> str:
    """Return a setting's docstring, without references to the paper, as rich text, which Qt wraps."""
    text = _PLACES.sub("", " ".join((info.description or "").split()))
    text = re.sub(r"`([^`]*)`", r"<i>\1</i>", text.replace("&", "&amp;").replace("<", "&lt;"))
    return f"<qt>{text}</qt>"


def _without_none(annotation: Any) -> Any:
    """Return the type of an optional setting without None."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next(part for part in typing.get_args(annotation) if part is not type(None))
    return annotation


def _bounds(info: FieldInfo, smallest: float) -> dict[str, Any]:
    """Return `min` and `max` for a number's widget."""
    sides = ("ge", "gt", "le", "lt")
    rules = {side: getattr(rule, side) for rule in info.metadata for side in sides if hasattr(rule, side)}
    low = rules.get("ge", rules["gt"] + smallest if "gt" in rules else -1e9)
    high = rules.get("le", rules["lt"] - smallest if "lt" in rules else 1e9)
    return {"min": low, "max": high}
