"""A combo box of layers that follows the viewer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from weakref import ref

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QSizePolicy

from napari_bloodcell.napari.layers.private import unwrapped
from napari_bloodcell.napari.notify import connect_for_life

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari.components import ViewerModel
    from napari.layers import Layer


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
