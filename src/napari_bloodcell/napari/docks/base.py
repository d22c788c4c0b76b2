"""What all docks share: they follow the viewer while they are visible, scroll, and stop their work when closed."""

from __future__ import annotations

import html
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar, cast
from weakref import ref

from napari.components import ViewerModel
from napari.layers import Image, Layer
from napari.utils.events import EventEmitter
from napari.viewer import Viewer
from qtpy.QtCore import QEvent, QObject, QSize, Qt, Signal
from qtpy.QtGui import QCloseEvent, QColor, QHideEvent, QIcon, QPixmap, QShowEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLayout,
    QLineEdit,
    QMessageBox,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QTableWidget,
    QTableWidgetItem,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_bloodcell.napari.docks.form import SettingsForm
from napari_bloodcell.napari.layers.images import PlaneIndex, current_plane, image_source
from napari_bloodcell.napari.layers.private import unwrapped
from napari_bloodcell.napari.notify import connect_for_life, notify_errors
from napari_bloodcell.napari.preferences import use_preferred_cache
from napari_bloodcell.napari.window import watch_window
from napari_bloodcell.napari.work.worker import WorkPanel

Watched = Iterable[tuple[EventEmitter, Callable[..., object]]]

BoxLayout = TypeVar("BoxLayout", QHBoxLayout, QVBoxLayout)


class PlainLabel(QLabel):
    """A label that wraps its text and renders no HTML."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setWordWrap(True)


def plain(text: str) -> str:
    """Escape a text that looks like HTML, for tooltips and questions, where Qt has no plain format."""
    return f"<qt>{html.escape(text)}</qt>".replace("\n", "<br>") if "<" in text else text


def slim(combo: QComboBox) -> None:
    """Keep a long entry from widening the dock."""
    combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    combo.setMinimumContentsLength(8)
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)


class LayerChoice(QComboBox):
    """The layers that `accepts` allows, topmost first, after the `fixed` entries.

    `none` is shown if there is nothing to choose. With `follows_active`, the viewer's active layer becomes the choice.
    """

    chosen = Signal()
    """The choice changed, by the user or because layers came and went."""

    def __init__(
        self,
        viewer: ViewerModel,
        accepts: Callable[[Layer], bool],
        *,
        fixed: Sequence[str] = (),
        none: str = "",
        follows_active: bool = False,
    ) -> None:
        super().__init__()
        viewer = unwrapped(viewer)
        self._viewer, self._accepts, self._fixed, self._none = viewer, accepts, list(fixed), none
        self._last: tuple[int, str] = (0, "")
        slim(self)
        for name in ("inserted", "removed", "reordered", "renamed"):
            emitter = getattr(viewer.layers.events, name, None)
            if emitter is not None:
                connect_for_life(emitter, self.refresh)
        if follows_active:
            connect_for_life(viewer.layers.selection.events.active, self._on_active)
        self.currentIndexChanged.connect(self._on_index)
        self.refresh()
        if follows_active:
            self._on_active()

    @property
    def layer(self) -> Any:
        """The chosen layer, or None."""
        found = self.currentData()
        layer = found() if found is not None else None
        return layer if layer is not None and layer in self._viewer.layers else None

    def choose(self, layer: Layer) -> None:
        """Choose a layer, if it is listed."""
        for i in range(self.count()):
            found = cast("Any", self.itemData(i))
            if found is not None and found() is layer:
                self.setCurrentIndex(i)

    def set_fixed(self, fixed: Sequence[str]) -> None:
        """Replace the fixed entries."""
        if list(fixed) != self._fixed:
            self._fixed = list(fixed)
            self.refresh()

    def refresh(self, _event: object = None) -> None:
        """List the viewer's layers anew."""
        before, text = self.layer, self.currentText()
        self.blockSignals(True)
        self.clear()
        for entry in self._fixed:
            self.addItem(entry)
        for layer in reversed(self._viewer.layers):
            if self._accepts(layer):
                self.addItem(layer.name, ref(layer))
        if not self.count() and self._none:
            self.addItem(self._none)
        self.setEnabled(self.count() > 1 or bool(self._fixed) or self.layer is not None)
        if before is not None:
            self.choose(before)
        elif text in self._fixed:
            self.setCurrentIndex(self._fixed.index(text))
        self.blockSignals(False)
        self._on_index()

    def _on_active(self, _event: object = None) -> None:
        active = self._viewer.layers.selection.active
        if active is not None and self._accepts(active):
            self.choose(active)

    def _on_index(self, _index: int = 0) -> None:
        now = (id(self.layer), "" if self.layer is not None else self.currentText())
        if now != self._last:
            self._last = now
            self.chosen.emit()


ENOUGH_PX: Final = 350
"""Every dock fits this width; a larger hint comes from a dock that is not styled yet."""
THIS_PLANE, ALL_PLANES = "The plane in view", "All planes"


class Dock(QWidget):
    """Base of the docks: awake while visible, at rest while hidden, closed or removed from its window.

    `watched` says which events of napari a subclass follows. They are connected only while the dock is awake, so that
    the viewer neither holds nor calls a hidden one; `on_wake` catches up on everything. Long work runs on `panel.work`,
    if there is a panel, and stops with the dock.
    """

    panel: WorkPanel | None = None

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = unwrapped(viewer)
        self._connected: list[tuple[EventEmitter, Callable[..., object]]] = []
        self.is_resting = True
        use_preferred_cache()
        watch_window(self._viewer)

    @property
    def viewer(self) -> Viewer:
        """The window that the dock belongs to."""
        return self._viewer

    def watched(self) -> Watched:
        """Yield the events to follow now, each with its callback; see `watch`."""
        return ()

    def on_wake(self) -> None:
        """Refresh everything: the dock becomes visible."""

    def on_rest(self) -> None:
        """Let go of mouse, keys and layers: the dock is hidden."""

    def watch(self) -> None:
        """Connect exactly the events of `watched`; subclasses call this after another layer was chosen."""
        for emitter, slot in self._connected:
            emitter.disconnect(slot)
        self._connected = [] if self.is_resting else list(self.watched())
        for emitter, slot in self._connected:
            emitter.connect(slot)

    def wake(self) -> None:
        """Wake up, if at rest; subclasses call this at the end of their constructor."""
        if self.is_resting:
            self.is_resting = False
            self.on_wake()
            self.watch()

    def rest(self) -> None:
        """Go to rest, if awake."""
        if not self.is_resting:
            self.is_resting = True
            self.watch()
            self.on_rest()

    def lay_out(
        self, *parts: QWidget | QLayout, below: Sequence[QWidget] = (), stretched: QWidget | None = None
    ) -> None:
        """Stack `parts`, scrolling in a low window, and keep `below` always visible; `stretched` takes spare height."""
        inside = QWidget()
        rows = QVBoxLayout(inside)
        fill(rows, *parts, stretched=[stretched])
        layout = QVBoxLayout(self)
        if below:
            rows.setContentsMargins(0, 0, 6, 0)
            layout.addWidget(_FittedScroll(inside))
            for widget in below:
                layout.addWidget(widget)
            layout.addStretch(1)
        else:
            layout.setContentsMargins(0, 0, 0, 0)
            layout.addWidget(Scrolled(inside))
        self.setMinimumWidth(ENOUGH_PX - 15)  # so that nothing is cut off, even before it is styled

    def showEvent(self, event: QShowEvent | None) -> None:
        """Wake up, and align the forms' labels, which have their font only now."""
        super().showEvent(event)
        align_labels(self)
        self.wake()

    def hideEvent(self, event: QHideEvent | None) -> None:
        """Go to rest."""
        super().hideEvent(event)
        self.rest()

    def closeEvent(self, event: QCloseEvent | None) -> None:
        """Go to rest, and stop the work."""
        super().closeEvent(event)
        self.rest()
        if self.panel is not None:
            self.panel.work.shut_down()

    def changeEvent(self, event: QEvent | None) -> None:
        """Do the same when napari removes the widget from a closed dock, even if it was never shown."""
        super().changeEvent(event)
        if event is not None and event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.rest()
            if self.panel is not None:
                self.panel.work.abandon()


class StageDock(Dock):
    """Base of the docks that run a stage on an image: settings, a button, progress and a summary.

    Subclasses add to `rows`, call `finish_layout`, and do the work in `start`.
    """

    panel: WorkPanel

    def __init__(self, viewer: Viewer, *, button: str, tooltip: str) -> None:
        super().__init__(viewer)
        self.image = LayerChoice(
            viewer, lambda layer: isinstance(layer, Image), none="Open an image first", follows_active=True
        )
        self.image.setToolTip("The image layer that shows the smear")
        self.planes = QComboBox()
        self.planes.addItems([THIS_PLANE, ALL_PLANES])
        self.planes.setToolTip("Which planes of a time or z stack are analysed")
        self.rows = form_rows()
        self.rows.addRow("Image", self.image)
        self.rows.addRow("Planes", self.planes)
        self.run = make_button(button, tooltip, self._on_run)
        self.panel = WorkPanel(button)
        self.after_summary: list[QWidget] = []
        self.summary = PlainLabel()
        self.summary.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.panel.work.started.connect(self._on_busy)
        self.panel.work.finished.connect(self._on_idle)
        self.image.chosen.connect(self._on_image)

    @property
    def is_running(self) -> bool:
        """Whether work is running."""
        return self.panel.work.is_running

    def start(self) -> None:
        """Start the work with the settings of the form; raise `BloodCellError` if something is missing or invalid."""
        raise NotImplementedError

    def chosen_planes(self, layer: Image) -> list[PlaneIndex]:
        """Return the planes of a layer to analyse."""
        source = image_source(layer)
        if source.stack_shape and self.planes.currentText() == ALL_PLANES:
            return list(source.plane_indices())
        return [current_plane(self._viewer, layer)]

    def finish_layout(self, form: SettingsForm) -> None:
        """Put the settings above the button, so that Tab reaches it last; call it after adding all rows."""
        self.lay_out(self.rows, form, below=(self.run, self.panel, self.summary, *self.after_summary))
        self._on_image()
        self.wake()

    def _on_run(self) -> None:
        notify_errors(self.start)

    def _on_busy(self) -> None:
        self.run.setEnabled(False)
        self.summary.clear()

    def _on_idle(self) -> None:
        self.run.setEnabled(True)

    def _on_image(self) -> None:
        layer = self.image.layer
        is_stack = layer is not None and bool(image_source(layer).stack_shape)
        self.rows.setRowVisible(self.planes, is_stack)


class NarrowTable(QTableWidget):
    """A read-only table for a narrow dock, with `columns` as (title, tooltip) and `name` for screen readers."""

    def __init__(self, columns: Sequence[tuple[str, str]], name: str) -> None:
        super().__init__(0, len(columns))
        self.setAccessibleName(name)
        for i, (title, tip) in enumerate(columns):
            item = QTableWidgetItem(title)
            item.setToolTip(plain(tip))
            self.setHorizontalHeaderItem(i, item)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setTabKeyNavigation(False)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        narrow_headers(self, QHeaderView.ResizeMode.ResizeToContents, smallest_px=36)
        header = self.horizontalHeader()
        if header is not None:
            header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)


class Scrolled(QScrollArea):
    """A scroll area at least as wide as its content, so that nothing is cut off at the right."""

    def __init__(self, inside: QWidget) -> None:
        super().__init__()
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidgetResizable(True)
        self.setWidget(inside)

    def minimumSizeHint(self) -> QSize:
        """Return the width of the content with its scroll bar."""
        usual, inside = super().minimumSizeHint(), self.widget()
        bar = self.verticalScrollBar()
        if inside is None or bar is None:
            return usual
        width = inside.minimumSizeHint().width() + bar.sizeHint().width()
        return QSize(min(width, ENOUGH_PX), usual.height())

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Update the width when the content changes."""
        if event is not None and event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return bool(super().eventFilter(watched, event))


class _FittedScroll(Scrolled):
    """A scroll area as high as its content, or lower if the window is, so that what follows stays below it."""

    def __init__(self, inside: QWidget) -> None:
        super().__init__(inside)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)

    def sizeHint(self) -> QSize:
        inside = self.widget()
        usual = super().sizeHint()
        return usual if inside is None else QSize(usual.width(), inside.sizeHint().height() + 2 * self.frameWidth())


def narrow_headers(table: QTableWidget, mode: QHeaderView.ResizeMode, *, smallest_px: int | None = None) -> None:
    """Give a table low rows without a header of their own, and columns of this mode."""
    rows, columns = table.verticalHeader(), table.horizontalHeader()
    if rows is not None and columns is not None:
        rows.setVisible(False)
        rows.setDefaultSectionSize(rows.minimumSectionSize())
        columns.setSectionResizeMode(mode)
        if smallest_px is not None:
            columns.setMinimumSectionSize(smallest_px)


def fit_height(table: QTableWidget, most_rows: int = sys.maxsize) -> None:
    """Match a table's height to its rows, or to the first `most_rows`."""
    rows, header = min(table.rowCount(), most_rows), table.horizontalHeader()
    height = sum(table.rowHeight(i) for i in range(rows)) + 2 * table.frameWidth() + 2
    table.setFixedHeight(height + (header.sizeHint().height() if header is not None else 0))


def fill(layout: BoxLayout, *parts: QWidget | QLayout, stretched: Sequence[QWidget | None] = ()) -> BoxLayout:
    """Add widgets and layouts to a layout, and return it; `stretched` ones take spare room."""
    for part in parts:
        if isinstance(part, QLayout):
            layout.addLayout(part)
        else:
            layout.addWidget(part, int(part in stretched))
    return layout


def fill_column(
    owner: QWidget, *parts: QWidget | QLayout, stretched: QWidget | None = None, top: int = 0
) -> QVBoxLayout:
    """Stack widgets and layouts in `owner` without margins, except at the top; `stretched` takes spare height."""
    layout = fill(QVBoxLayout(owner), *parts, stretched=[stretched])
    layout.setContentsMargins(0, top, 0, 0)
    return layout


def make_button(text: str, tooltip: str, on_click: Callable[..., object] | None = None) -> QPushButton:
    """Return a button with a tooltip."""
    found = QPushButton(text)
    found.setToolTip(tooltip)
    if on_click is not None:
        found.clicked.connect(on_click)
    return found


def with_browse_button(field: QLineEdit, on_click: Callable[..., object]) -> QHBoxLayout:
    """Return a row with the field of a folder, and a button that opens a dialog."""
    browse = QToolButton()
    browse.setText("…")
    browse.setToolTip("Choose a folder")
    browse.clicked.connect(on_click)
    return fill(QHBoxLayout(), field, browse, stretched=[field])


def form_rows(**fields: Any) -> QFormLayout:
    """Return a form layout of labelled fields; `New_cells=` becomes "New cells"."""
    rows = QFormLayout()
    rows.setContentsMargins(0, 0, 0, 0)
    rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    for name, field in fields.items():
        rows.addRow(name.replace("_", " "), field)
    return rows


def align_labels(dock: QWidget) -> None:
    """Give the labels of all forms in a dock the same width, so that their fields line up."""
    found: list[QWidget] = []
    for layout in dock.findChildren(QFormLayout):
        items = (layout.itemAt(i, QFormLayout.ItemRole.LabelRole) for i in range(layout.rowCount()))
        found += [label for item in items if item is not None and (label := item.widget()) is not None]
    for form in dock.findChildren(SettingsForm):
        found += form.labels()
    for label in found:
        label.ensurePolished()  # else its size hint is that of another font
    width = max((label.sizeHint().width() for label in found if label.isVisibleTo(dock)), default=0)
    for label in found:
        label.setMinimumWidth(width)


def swatch(colour: str | None) -> QIcon:
    """Return a square of a colour as an icon; None: an empty one."""
    pixmap = QPixmap(12, 12)
    pixmap.fill(QColor(colour) if colour else Qt.GlobalColor.transparent)
    icon = QIcon(pixmap)
    icon.addPixmap(pixmap, QIcon.Mode.Selected)  # not tinted
    return icon


def may_download(parent: QWidget, model: str) -> bool:
    """Ask the user whether to download a model's weights now."""
    from napari_bloodcell.models import weights

    file = weights.find(model)
    answer = QMessageBox.question(
        parent,
        "Download the model?",
        f"{file.description}\n\nIts weights ({file.size_bytes / 1e6:,.0f} MB) are not on this machine. "
        "Download them now?\n\n"
        f"From: {file.url}\nTo: {file.path.parent}",
    )
    return bool(answer == QMessageBox.StandardButton.Yes)
