"""Real events on the canvas of a window: keys, moves, clicks and drags, as a person makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_bloodcell.napari.layers.private import camera_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari import Viewer
    from napari.layers import Layer

LEFT, NONE = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
PLAIN = Qt.KeyboardModifier.NoModifier


class Screen:
    """The canvas of a shown window; places are pixels (y, x) of a layer."""

    def __init__(self, viewer: Viewer, layer: Layer) -> None:
        self.viewer, self.layer = viewer, layer
        self.canvas: Any = viewer.window._qt_viewer.canvas.native
        viewer.window.activate()
        self.canvas.setFocus()
        self.settle()

    def settle(self) -> None:
        """Let the window draw what was changed: layers know what is in view only then."""
        for _ in range(3):
            self.viewer.window._qt_viewer.canvas.on_draw(None)
            QApplication.processEvents()

    def point(self, place: Sequence[float]) -> QPoint:
        """Return where a place is on the canvas."""
        world = np.asarray(self.layer.data_to_world([*self.viewer.dims.current_step[: self.layer.ndim - 2], *place]))
        camera = camera_of(self.viewer)
        y, x = (world[-2:] - np.asarray(camera.center)[-2:]) * camera.zoom
        return QPoint(round(self.canvas.width() / 2 + x), round(self.canvas.height() / 2 + y))

    def move(self, place: Sequence[float]) -> None:
        """Move the mouse, no button down."""
        self._mouse(QMouseEvent.Type.MouseMove, self.point(place), NONE, NONE)

    def click(self, place: Sequence[float], modifiers: Qt.KeyboardModifier = PLAIN) -> None:
        """Move there and click."""
        self.drag([place], modifiers)

    def drag(self, places: Sequence[Sequence[float]], modifiers: Qt.KeyboardModifier = PLAIN) -> None:
        """Press at the first place, go through the others, release at the last."""
        self.move(places[0])
        points = [self.point(place) for place in places]
        self._mouse(QMouseEvent.Type.MouseButtonPress, points[0], LEFT, LEFT, modifiers)
        for point in points[1:]:
            self._mouse(QMouseEvent.Type.MouseMove, point, NONE, LEFT, modifiers)
        self._mouse(QMouseEvent.Type.MouseButtonRelease, points[-1], LEFT, NONE, modifiers)

    def key(self, key: Qt.Key | str, modifiers: Qt.KeyboardModifier = PLAIN) -> None:
        """Strike a key on the canvas."""
        QTest.keyClick(self.canvas, key.lower() if isinstance(key, str) else key, modifiers)
        QApplication.processEvents()

    def _mouse(
        self,
        kind: QMouseEvent.Type,
        point: QPoint,
        button: Qt.MouseButton,
        buttons: Qt.MouseButton,
        modifiers: Qt.KeyboardModifier = PLAIN,
    ) -> None:
        place = QPointF(point)
        event = QMouseEvent(kind, place, QPointF(self.canvas.mapToGlobal(point)), button, buttons, modifiers)
        QTest.qWait(20)  # vispy drops moves in quick succession, and napari passes on the last of 5 ms
        QApplication.sendEvent(self.canvas, event)
        QTest.qWait(20)
