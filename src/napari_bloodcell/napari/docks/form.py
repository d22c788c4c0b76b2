"""A settings model as a form: types, bounds, defaults and tooltips all come from `params.py`."""

from __future__ import annotations

import re
import types
import typing
from typing import TYPE_CHECKING, Any, Final, Literal

from magicgui.widgets import create_widget
from pydantic import ValidationError
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_bloodcell.core.errors import SettingsError
from napari_bloodcell.models.weights import CLASSIFIERS, GENERATORS
from napari_bloodcell.results.recipes import explain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from magicgui.widgets.bases import ValueWidget
    from pydantic.fields import FieldInfo

    from napari_bloodcell.core.params import Params

_CHOICES: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("SegmentParams", "model"): tuple(GENERATORS),
    ("ClassifyParams", "model"): tuple(CLASSIFIERS),
    ("*", "device"): ("auto", "cpu", "cuda", "mps"),
}
"""What is offered for settings that are names; another one, or a path, may be typed."""
_ACRONYMS: Final = {"rbc": "RBC", "wbc": "WBC", "iou": "IoU", "kde": "KDE"}
_UNITS: Final = {"px": "px", "um": "µm", "s": "s"}
_AUTO: Final = "auto"
_FOLD_STYLE: Final = "QPushButton { text-align: left; border: none } QPushButton:focus { text-decoration: underline }"


class NameChoice(QWidget):
    """A name from a list, one that is typed, or, with a button, a file."""

    changed = Signal()

    def __init__(self, names: Sequence[str], *, file_filter: str | None = None) -> None:
        super().__init__()
        self._file_filter = file_filter
        self._box = QComboBox()
        self._box.setEditable(True)
        self._box.addItems(list(names))
        self._box.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self._box.currentTextChanged.connect(self.changed)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box, 1)
        self.setFocusProxy(self._box)
        if file_filter is not None:
            browse = QToolButton()
            browse.setText("…")
            browse.setToolTip("Choose a file")
            browse.clicked.connect(self._on_browse)
            layout.addWidget(browse)

    @property
    def value(self) -> str:
        """The name, or the path."""
        return self._box.currentText().strip()

    @value.setter
    def value(self, name: str) -> None:
        self._box.setCurrentText(str(name))

    def _on_browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Choose a model", "", self._file_filter or "")
        if path:
            self.value = path


class _Setting:
    """One field of the form."""

    def __init__(self, model: type[Params], name: str, field: FieldInfo) -> None:
        self.name = name
        self._inner, self._is_optional = _without_none(field.annotation)
        names = _CHOICES.get((model.__name__, name)) or _CHOICES.get(("*", name))
        self._choice: NameChoice | None = None
        self._widget: ValueWidget[Any] | None = None
        if names is not None:
            is_file = name == "model"
            self._choice = NameChoice(
                names, file_filter="Models (*.safetensors *.pth);;All files (*)" if is_file else None
            )
            self.native: QWidget = self._choice
        else:
            self._widget = _make_widget(name, self._inner, field, is_optional=self._is_optional)
            self.native = self._widget.native
        self.native.setToolTip(_tooltip(field))
        self.native.setAccessibleName(label_of(name))
        self.set(field.default)

    @property
    def value(self) -> Any:
        """The setting's value."""
        if self._choice is not None:
            return self._choice.value
        widget = typing.cast("ValueWidget[Any]", self._widget)
        spin: Any = self.native
        if self._is_optional and spin.value() == spin.minimum():
            return None
        return int(widget.value) if self._inner is int else widget.value

    def set(self, value: Any) -> None:
        """Show a value."""
        if self._choice is not None:
            self._choice.value = value
        elif self._is_optional and value is None:
            spin: Any = self.native
            spin.setValue(spin.minimum())
        else:
            typing.cast("ValueWidget[Any]", self._widget).value = value

    def on_change(self, slot: Any) -> None:
        """Call `slot` when the value changes."""
        if self._choice is not None:
            self._choice.changed.connect(slot)
        else:
            typing.cast("ValueWidget[Any]", self._widget).changed.connect(slot)


class SettingsForm(QWidget):
    """A form for a model of `params.py`: a few settings in sight, the others under "More settings".

    Parameters
    ----------
    model : type of Params
        The settings.
    first : sequence of str
        Names of the settings that are always in sight.
    without : sequence of str
        Names of settings that are not offered.
    values : mapping, optional
        Values that replace the defaults, as the user's preferences.
    rows : QFormLayout, optional
        Takes the settings that are always in sight, so that they stand in line with the dock's own rows.
    """

    changed = Signal()

    def __init__(
        self,
        model: type[Params],
        *,
        first: Sequence[str],
        without: Sequence[str] = (),
        values: Mapping[str, Any] | None = None,
        rows: QFormLayout | None = None,
    ) -> None:
        super().__init__()
        self._model = model
        fields = {name: field for name, field in model.model_fields.items() if name not in without}
        self._settings = {name: _Setting(model, name, field) for name, field in fields.items()}
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        if rows is None:
            rows = _form_layout()
            layout.addLayout(rows)
        self._fill(rows, [name for name in first if name in fields])
        rest = [name for name in fields if name not in first]
        if rest:
            inside = QWidget()
            hidden = _form_layout()
            self._fill(hidden, rest)
            inside.setLayout(hidden)
            layout.addWidget(_fold("More settings", inside))
        for setting in self._settings.values():
            setting.on_change(lambda *_: self.changed.emit())
        self.set_values(values or {})

    def settings(self) -> Any:
        """Return what is in the form as an instance of the model.

        Raises
        ------
        SettingsError
            If a value is not allowed.
        """
        values = {name: setting.value for name, setting in self._settings.items()}
        try:
            return self._model(**values)
        except ValidationError as error:
            raise SettingsError(f"These settings cannot be used: {explain(error, self._model)}.") from error

    def set_values(self, values: Mapping[str, Any]) -> None:
        """Show these values; names that are not in the form are left out."""
        for name, value in values.items():
            if name in self._settings:
                self._settings[name].set(value)

    def field(self, name: str) -> QWidget:
        """Return the widget of a setting."""
        return self._settings[name].native

    def _fill(self, rows: QFormLayout, names: Sequence[str]) -> None:
        for name in names:
            setting = self._settings[name]
            rows.addRow(label_of(name), setting.native)
            label = rows.labelForField(setting.native)
            if label is not None:
                label.setToolTip(setting.native.toolTip())


def _fold(text: str, inside: QWidget) -> QCollapsible:
    """Return a button that unfolds what is below it; its arrow is text, which takes the colour of the theme."""
    fold = QCollapsible(expandedIcon=QIcon(), collapsedIcon=QIcon())
    fold.setDuration(0)  # an animation would redraw the canvas on every step
    fold.setContent(inside)
    button = fold.toggleButton()
    button.setToolTip("Show the settings that are seldom changed, or hide them")
    button.setStyleSheet(_FOLD_STYLE)

    def show(is_open: bool) -> None:
        button.setText(f"{'▾' if is_open else '▸'} {text}")
        inside.setVisible(is_open)  # else the Tab key would go through what nobody sees

    button.toggled.connect(show)
    fold.collapse(animate=False)
    show(False)
    layout = fold.layout()
    if layout is not None:
        layout.setContentsMargins(0, 6, 0, 0)
    return fold


def _form_layout() -> QFormLayout:
    rows = QFormLayout()
    rows.setContentsMargins(0, 0, 0, 0)
    rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    return rows


def label_of(name: str) -> str:
    """Return a setting's name as a label: ``rbc_diameter_px`` → "RBC diameter (px)"."""
    words = name.split("_")
    unit = f" ({_UNITS[words[-1]]})" if len(words) > 1 and words[-1] in _UNITS else ""
    words = words[:-1] if unit else words
    words = [_ACRONYMS.get(word, word) for word in words]
    text = " ".join(words)
    return text[:1].upper() + text[1:] + unit


def _tooltip(field: FieldInfo) -> str:
    """Return a setting's docstring, which Qt wraps where it is rich text."""
    text = " ".join((field.description or "").split())
    text = re.sub(r"`([^`]*)`", r"<i>\1</i>", text.replace("&", "&amp;").replace("<", "&lt;"))
    return f"<qt>{text}</qt>"


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner = [part for part in typing.get_args(annotation) if part is not type(None)]
        return inner[0], len(inner) < len(typing.get_args(annotation))
    return annotation, False


def _make_widget(name: str, kind: Any, field: FieldInfo, *, is_optional: bool) -> ValueWidget[Any]:
    """Return magicgui's widget for a type, with the field's bounds."""
    options: dict[str, Any] = {}
    if kind in (int, float):
        low, high = _bounds(field, kind)
        step: float = 1
        if kind is float:
            step = 0.05 if high <= 1 else 0.01 if low < 0.1 and high > 1e3 and "um" in name else 1.0
        if is_optional:  # one step below the smallest value means "none given"
            low = low - step if kind is int else min(0.0, low)
        options = {"min": low, "max": high, "step": step}
    elif typing.get_origin(kind) is Literal:
        options = {"choices": list(typing.get_args(kind))}
    # magicgui's box for whole numbers cannot show a word for its smallest value
    shown = float if kind is int and is_optional else kind
    widget: ValueWidget[Any] = create_widget(annotation=shown, name=name, options=options)  # type: ignore[assignment]
    native = widget.native
    if shown is not kind:
        native.setDecimals(0)
    if _is_small(field):
        native.setDecimals(6)  # else 0.001 would be shown, and read, as 0
        native.setSingleStep(field.default)
    if kind is bool:
        native.setText("")
    if isinstance(native, QAbstractSpinBox):
        native.setKeyboardTracking(False)
        if is_optional:
            native.setSpecialValueText(_AUTO)
    if isinstance(native, QAbstractSpinBox | QComboBox):
        native.setFocusPolicy(Qt.FocusPolicy.StrongFocus)  # a scroll over the dock must not change settings
        native.setMinimumSize(QSize(60, 0))
        native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
    return widget


def _is_small(field: FieldInfo) -> bool:
    """Return whether a setting's values are so small that two decimals cannot show them."""
    return isinstance(field.default, float) and 0 < field.default < 0.05


def _bounds(field: FieldInfo, kind: Any) -> tuple[float, float]:
    low: float = -(2**31) if kind is int else -1e9
    high: float = 2**31 - 1 if kind is int else 1e6
    tiny = 1 if kind is int else 1e-6 if _is_small(field) else 0.001
    rule: Any
    for rule in field.metadata:
        low = rule.ge if getattr(rule, "ge", None) is not None else low
        low = rule.gt + tiny if getattr(rule, "gt", None) is not None else low
        high = rule.le if getattr(rule, "le", None) is not None else high
        high = rule.lt - tiny if getattr(rule, "lt", None) is not None else high
    return low, high
