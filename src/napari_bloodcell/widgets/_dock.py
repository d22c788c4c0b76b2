"""What the docks that run a stage have in common: settings that scroll, a button, progress below it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.layers import Image
from qtpy.QtCore import QEvent, QSize, Qt
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_bloodcell.widgets._count_controls import ENOUGH_PX, Scrolled
from napari_bloodcell.widgets._errors import notify_errors
from napari_bloodcell.widgets._images import image_source
from napari_bloodcell.widgets._layer_choice import LayerChoice
from napari_bloodcell.widgets._layers import current_plane
from napari_bloodcell.widgets._preferences import use_preferred_cache
from napari_bloodcell.widgets._worker import WorkPanel

if TYPE_CHECKING:
    from napari.viewer import Viewer
    from qtpy.QtGui import QCloseEvent

    from napari_bloodcell.widgets._images import PlaneIndex

THIS_PLANE, ALL_PLANES = "The plane in view", "All planes"


class StageDock(QWidget):
    """Base of the docks; a subclass fills `rows` and `body`, and does the work in `start`.

    Parameters
    ----------
    viewer : Viewer
        The window that the dock belongs to.
    button : str
        What the button says.
    tooltip : str
        What it does.
    """

    def __init__(self, viewer: Viewer, *, button: str, tooltip: str) -> None:
        super().__init__()
        self._viewer = getattr(viewer, "__wrapped__", viewer)  # not the proxy that plugins are given
        use_preferred_cache()
        self.image = LayerChoice(
            viewer, lambda layer: isinstance(layer, Image), none="Open an image first", follows_active=True
        )
        self.image.setToolTip("The image layer that shows the smear")
        self.planes = QComboBox()
        self.planes.addItems([THIS_PLANE, ALL_PLANES])
        self.planes.setToolTip("Which planes of a time or z stack are looked at")
        self.rows = QFormLayout()
        self.rows.setContentsMargins(0, 0, 0, 0)
        self.rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.rows.addRow("Image", self.image)
        self.rows.addRow("Planes", self.planes)
        self.body = QVBoxLayout()
        self.body.setContentsMargins(0, 0, 6, 0)
        self.body.addLayout(self.rows)
        self.run = QPushButton(button)
        self.run.setToolTip(tooltip)
        self.panel = WorkPanel(button)
        self.summary = QLabel()
        self.summary.setWordWrap(True)
        self.summary.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.run.clicked.connect(self._on_run)
        self.panel.work.started.connect(self._on_busy)
        self.panel.work.finished.connect(self._on_idle)
        self.image.chosen.connect(self._on_image)

    @property
    def viewer(self) -> Viewer:
        """The window that the dock belongs to."""
        return self._viewer

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

    def closeEvent(self, event: QCloseEvent | None) -> None:
        """End the work with the dock."""
        self.panel.work.shut_down()
        super().closeEvent(event)

    def event(self, event: QEvent | None) -> bool:
        """End the work when napari takes the widget out of a dock that was closed."""
        if event is not None and event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.panel.work.abandon()
        return bool(super().event(event))

    def finish_layout(self) -> None:
        """Put the settings above the button, so that the Tab key reaches it last; called when all rows are there."""
        inside = QWidget()
        inside.setLayout(self.body)
        layout = QVBoxLayout(self)
        for widget in (_FittedScroll(inside), self.run, self.panel, self.summary):
            layout.addWidget(widget)
        layout.addStretch(1)
        self.setMinimumWidth(ENOUGH_PX - 15)  # nothing is cut off, before it has its style, too
        self._on_image()

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


class _FittedScroll(Scrolled):
    """As high as what is in it, and lower where the window is: what comes below stays beneath the settings."""

    def __init__(self, inside: QWidget) -> None:
        super().__init__(inside)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)

    def sizeHint(self) -> QSize:
        inside = self.widget()
        usual = super().sizeHint()
        return usual if inside is None else QSize(usual.width(), inside.sizeHint().height() + 2 * self.frameWidth())
