"""What all docks have in common: they follow the viewer while they are seen, scroll, and end their work with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from napari.layers import Image
from qtpy.QtCore import QEvent, QObject, QSize, Qt
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QFormLayout,
    QFrame,
    QHeaderView,
    QLayout,
    QMessageBox,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_bloodcell.napari.docks.form import SettingsForm
from napari_bloodcell.napari.docks.layer_choice import LayerChoice
from napari_bloodcell.napari.docks.plain import PlainLabel, plain
from napari_bloodcell.napari.layers.images import current_plane, image_source
from napari_bloodcell.napari.layers.private import unwrapped
from napari_bloodcell.napari.notify import notify_errors
from napari_bloodcell.napari.preferences import use_preferred_cache
from napari_bloodcell.napari.work.worker import WorkPanel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from napari.utils.events import EventEmitter
    from napari.viewer import Viewer
    from qtpy.QtGui import QCloseEvent, QHideEvent, QShowEvent

    from napari_bloodcell.napari.layers.images import PlaneIndex

    Watched = Iterable[tuple[EventEmitter, Callable[..., object]]]

ENOUGH_PX: Final = 350
"""Every dock can be read at this width; what asks for more has not got its style yet."""
THIS_PLANE, ALL_PLANES = "The plane in view", "All planes"


class Dock(QWidget):
    """Base of the docks: awake while it is shown, at rest while it is hidden, closed or taken out of its window.

    A subclass says in `watched` on which events of napari it does what; they are connected while it is awake, so that
    nothing of the viewer holds or calls a dock that nobody sees. `on_wake` is where it looks at everything again.
    Long work is started on `panel.work`, where there is a panel, and ends with the dock.

    Parameters
    ----------
    viewer : Viewer
        The window that the dock belongs to.
    """

    panel: WorkPanel | None = None

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = unwrapped(viewer)
        self._connected: list[tuple[EventEmitter, Callable[..., object]]] = []
        self.is_resting = True
        use_preferred_cache()

    @property
    def viewer(self) -> Viewer:
        """The window that the dock belongs to."""
        return self._viewer

    def watched(self) -> Watched:
        """Yield the events to follow now, each with what is called then; see `watch`."""
        return ()

    def on_wake(self) -> None:
        """Look at everything again: the dock can be seen."""

    def on_rest(self) -> None:
        """Leave mouse, keys and layers alone: the dock cannot be seen."""

    def watch(self) -> None:
        """Follow what `watched` says, and nothing else; called by a subclass when another layer was chosen."""
        for emitter, slot in self._connected:
            emitter.disconnect(slot)
        self._connected = [] if self.is_resting else list(self.watched())
        for emitter, slot in self._connected:
            emitter.connect(slot)

    def wake(self) -> None:
        """Wake, if it rests; a subclass calls it at the end of its constructor."""
        if self.is_resting:
            self.is_resting = False
            self.on_wake()
            self.watch()

    def rest(self) -> None:
        """Rest, if it is awake."""
        if not self.is_resting:
            self.is_resting = True
            self.watch()
            self.on_rest()

    def lay_out(
        self, *parts: QWidget | QLayout, below: Sequence[QWidget] = (), stretched: QWidget | None = None
    ) -> None:
        """Put `parts` above each other, scrolling where the window is low, and `below` where it is always in sight.

        `stretched` is the part that takes the height that is left.
        """
        inside = QWidget()
        rows = QVBoxLayout(inside)
        for part in parts:
            if isinstance(part, QWidget):
                rows.addWidget(part, int(part is stretched))
            else:
                rows.addLayout(part)
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
        self.setMinimumWidth(ENOUGH_PX - 15)  # nothing is cut off, before it has its style, too

    def showEvent(self, event: QShowEvent | None) -> None:
        """Wake, and align the labels of the forms, which have their font only now."""
        super().showEvent(event)
        align_labels(self)
        self.wake()

    def hideEvent(self, event: QHideEvent | None) -> None:
        """Rest."""
        super().hideEvent(event)
        self.rest()

    def closeEvent(self, event: QCloseEvent | None) -> None:
        """Rest, and end the work."""
        super().closeEvent(event)
        self.rest()
        if self.panel is not None:
            self.panel.work.shut_down()

    def changeEvent(self, event: QEvent | None) -> None:
        """Do so when napari takes the widget out of a dock that was closed, even if it was never shown there."""
        super().changeEvent(event)
        if event is not None and event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.rest()
            if self.panel is not None:
                self.panel.work.abandon()


class StageDock(Dock):
    """Base of the docks that run a stage on an image: its settings, a button, progress and a summary below it.

    A subclass adds to `rows`, calls `finish_layout`, and does the work in `start`.

    Parameters
    ----------
    viewer : Viewer
        The window that the dock belongs to.
    button, tooltip : str
        What the button says, and what it does.
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
        self.planes.setToolTip("Which planes of a time or z stack are looked at")
        self.rows = form_rows()
        self.rows.addRow("Image", self.image)
        self.rows.addRow("Planes", self.planes)
        self.run = QPushButton(button)
        self.run.setToolTip(tooltip)
        self.panel = WorkPanel(button)
        self.summary = PlainLabel()
        self.summary.setWordWrap(True)
        self.summary.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.run.clicked.connect(self._on_run)
        self.panel.work.started.connect(self._on_busy)
        self.panel.work.finished.connect(self._on_idle)
        self.image.chosen.connect(self._on_image)

    @property
    def is_running(self) -> bool:
        """Whether work is under way."""
        return self.panel.work.is_running

    def start(self) -> None:
        """Begin the work with what is in the form.

        Raises
        ------
        BloodCellError
            If something is missing or not allowed.
        """
        raise NotImplementedError

    def chosen_planes(self, layer: Image) -> list[PlaneIndex]:
        """Return which planes of a layer are looked at."""
        source = image_source(layer)
        if source.stack_shape and self.planes.currentText() == ALL_PLANES:
            return list(source.plane_indices())
        return [current_plane(self._viewer, layer)]

    def finish_layout(self, form: SettingsForm) -> None:
        """Put the settings above the button, so that the Tab key reaches it last; called when all rows are there."""
        self.lay_out(self.rows, form, below=(self.run, self.panel, self.summary))
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
    """A table to read and to choose rows in.

    Parameters
    ----------
    columns : sequence of (str, str)
        Name and tooltip of each.
    name : str
        What it is called for a screen reader.
    """

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
        vertical, header = self.verticalHeader(), self.horizontalHeader()
        if vertical is not None and header is not None:
            vertical.setVisible(False)
            vertical.setDefaultSectionSize(vertical.minimumSectionSize())
            header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
            header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
            header.setMinimumSectionSize(36)


class Scrolled(QScrollArea):
    """At least as wide as what is in it: nothing is cut off at the right."""

    def __init__(self, inside: QWidget) -> None:
        super().__init__()
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidgetResizable(True)
        self.setWidget(inside)

    def minimumSizeHint(self) -> QSize:
        """Return the least size: as wide as what is inside, with its bar."""
        usual, inside = super().minimumSizeHint(), self.widget()
        bar = self.verticalScrollBar()
        if inside is None or bar is None:
            return usual
        width = inside.minimumSizeHint().width() + bar.sizeHint().width()
        return QSize(min(width, ENOUGH_PX), usual.height())

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Ask for another width when what is in it changes."""
        if event is not None and event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return bool(super().eventFilter(watched, event))


class _FittedScroll(Scrolled):
    """As high as what is in it, and lower where the window is: what comes below stays beneath the settings."""

    def __init__(self, inside: QWidget) -> None:
        super().__init__(inside)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)

    def sizeHint(self) -> QSize:
        inside = self.widget()
        usual = super().sizeHint()
        return usual if inside is None else QSize(usual.width(), inside.sizeHint().height() + 2 * self.frameWidth())


def form_rows(**fields: Any) -> QFormLayout:
    """Return a layout of fields with labels before them, as "New cells" for `New_cells=`."""
    rows = QFormLayout()
    rows.setContentsMargins(0, 0, 0, 0)
    rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    for name, field in fields.items():
        rows.addRow(name.replace("_", " "), field)
    return rows


def align_labels(dock: QWidget) -> None:
    """Give the labels of all forms in a dock one width, so that their fields begin at one line."""
    found: list[QWidget] = []
    for layout in dock.findChildren(QFormLayout):
        items = (layout.itemAt(i, QFormLayout.ItemRole.LabelRole) for i in range(layout.rowCount()))
        found += [label for item in items if item is not None and (label := item.widget()) is not None]
    for form in dock.findChildren(SettingsForm):
        found += form.labels()
    for label in found:
        label.ensurePolished()  # else its hint is that of another font
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
    """Ask whether a model's weights may be downloaded now."""
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
