"""A dock that follows the viewer only while it can be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QWidget

from napari_bloodcell.widgets._count_controls import align_labels

if TYPE_CHECKING:
    from qtpy.QtGui import QCloseEvent, QHideEvent, QShowEvent


class RestingWidget(QWidget):
    """Wakes when it is shown and rests when it is hidden, closed or taken out of its window.

    A subclass connects itself to the viewer in `on_wake` and disconnects in `on_rest`: while it rests, nothing of the
    viewer holds or calls it. It calls `wake` itself at the end of its constructor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_resting = True

    def on_wake(self) -> None:
        """Begin to follow the viewer."""
        raise NotImplementedError

    def on_rest(self) -> None:
        """Leave the viewer alone."""
        raise NotImplementedError

    def wake(self) -> None:
        """Wake, if it rests."""
        if self.is_resting:
            self.is_resting = False
            self.on_wake()

    def rest(self) -> None:
        """Rest, if it is awake."""
        if not self.is_resting:
            self.is_resting = True
            self.on_rest()

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
        """Rest."""
        super().closeEvent(event)
        self.rest()

    def changeEvent(self, event: QEvent | None) -> None:
        """Rest when taken out of the window, even if it was never shown there."""
        super().changeEvent(event)
        if event is not None and event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.rest()
