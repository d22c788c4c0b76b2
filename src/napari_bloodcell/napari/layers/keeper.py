"""Saves corrections of a slide's cells into the folder of its result."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from weakref import ref

import numpy as np
import pandas as pd
from napari.layers import Labels
from numpy.typing import NDArray

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.geometry import Box
from napari_bloodcell.core.params import ClassifyParams
from napari_bloodcell.napari.event_loop import running_app
from napari_bloodcell.napari.layers.features import boxes_in, by_hand, full_table, rows_of
from napari_bloodcell.napari.layers.links import full_resolution, info_of, names_of
from napari_bloodcell.napari.layers.types import TypeLookup
from napari_bloodcell.results.store import read_result
from napari_bloodcell.slides.save import repaint_types, write_corrected

if TYPE_CHECKING:
    from napari_bloodcell.napari.keeper_clock import KeeperClock


_Typing = tuple["ClassifyParams | None", "dict[str, str] | None"]

_KEEPER: Final = "napari_bloodcell_keeper"
_unsaved: set[SlideKeeper] = set()
"""Keepers with unsaved changes. Kept alive until saved, even after their layer was removed."""


def keep_on_disk(cells_layer: Labels, lookup: TypeLookup) -> None:
    """Start saving corrections of a cells layer whose labels lie in a slide's result folder."""
    folder = info_of(cells_layer).get("folder")
    is_lazy = not isinstance(full_resolution(cells_layer), np.ndarray)
    if keeper_of(cells_layer) is None and is_lazy and folder is not None and Path(folder).is_dir():
        with suppress(InputError):
            read_result(folder)
            cells_layer.metadata[_KEEPER] = SlideKeeper(cells_layer, lookup, Path(folder))


def keeper_of(cells_layer: Labels) -> SlideKeeper | None:
    """Return the keeper of a cells layer, or None."""
    keeper = cells_layer.metadata.get(_KEEPER)
    return keeper if isinstance(keeper, SlideKeeper) and keeper.is_of(cells_layer) else None


class SlideKeeper:
    """Keeps a slide's result folder up to date: automatically in a window, on `flush` in a script."""

    def __init__(self, cells_layer: Labels, lookup: TypeLookup, folder: Path) -> None:
        self._layer, self._lookup, self.folder = ref(cells_layer), lookup, folder
        self._held: Labels | None = None
        self._codes, self._said = lookup.codes[:-1].copy(), _said_in(cells_layer, lookup)
        self._n_by_hand = int(by_hand(cells_layer.features).sum())
        self._known_typing = self._typing = _typing_of(cells_layer)
        self._boxes: list[Box] = []
        cells_layer.events.features.connect(self._on_features)
        self.clock: KeeperClock | None = None
        app = running_app()
        if app is not None:
            from napari_bloodcell.napari.keeper_clock import KeeperClock

            self.clock = KeeperClock(folder, self._next_save, self.rest)
            app.aboutToQuit.connect(self.flush)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return itself; `is_of` tells that it does not keep the copied layer."""
        return self

    def is_of(self, cells_layer: Labels) -> bool:
        """Return whether this keeps that layer."""
        return self._layer() is cells_layer

    def touch(self, box: Box) -> None:
        """Note that pixels changed in a box (y0, x0, y1, x1) of the finest level."""
        self._boxes.append(box)
        self._later()

    def flush(self) -> None:
        """Save pending changes now."""
        if self.clock is not None:
            self.clock.stop()
        changes = self.changes()
        if changes is not None:
            changes.write()
        self.rest()

    def _next_save(self) -> Callable[[], None] | None:
        changes = self.changes()
        return None if changes is None else changes.write

    def _on_features(self, _event: object = None) -> None:
        self._later()

    def _later(self) -> None:
        self._held = self._layer()
        _unsaved.add(self)
        if self.clock is not None:
            self.clock.start()

    def rest(self) -> None:
        """Release the layer; everything is saved."""
        self._held = None
        _unsaved.discard(self)
        if self.clock is not None:
            self.clock.saved.emit()

    def changes(self) -> Changes | None:
        """Return the unsaved changes, or None; they count as saved from now on."""
        layer = self._held or self._layer()
        if layer is None:
            return None
        codes, features = self._lookup.codes[:-1].copy(), layer.features
        n = max(len(codes), len(self._codes))
        before, now = (np.pad(c, (0, n - len(c))) for c in (self._codes, codes))
        n_by_hand, said = int(by_hand(features).sum()), _said_in(layer, self._lookup)
        changed = boxes_in(features, rows_of(features, np.flatnonzero(before != now)))
        boxes = np.concatenate([np.array(self._boxes, np.int64).reshape(-1, 4), changed if changed is not None else []])
        typing = _typing_of(layer)
        if not len(boxes) and (n_by_hand, said, typing) == (self._n_by_hand, self._said, self._typing):
            return None
        self._said = said
        self._codes, self._n_by_hand, self._typing, self._boxes = codes, n_by_hand, typing, []
        typed_anew = typing if typing != self._known_typing else (None, None)
        return Changes(self.folder, features.copy(), names_of(layer), codes, boxes, typed_anew)


@dataclass(frozen=True)
class Changes:
    """Cells as they are now, not yet saved."""

    folder: Path
    features: pd.DataFrame
    names: list[str]
    codes: NDArray[np.uint8]
    boxes: NDArray[np.int64]
    typing: _Typing

    def write(self) -> None:
        """Save them."""
        repaint_types(self.folder, self.codes, self.boxes)
        params, classifier = self.typing
        write_corrected(self.folder, full_table(self.features), self.names, typed_with=params, classifier=classifier)


def _said_in(cells_layer: Labels, lookup: TypeLookup) -> int:
    """Return a hash of the kinds of the cells and of those that are marked as abnormal."""
    features = cells_layer.features
    marked = features["abnormal"].to_numpy(bool) if "abnormal" in features.columns else np.zeros(0, bool)
    return hash((lookup.kinds[: lookup.kinds.nonzero()[0].max(initial=-1) + 1].tobytes(), marked.tobytes()))


def _typing_of(cells_layer: Labels) -> _Typing:
    """Return the settings of a layer's last typing, and name and hash of its model, if known."""
    info = info_of(cells_layer)
    params, model = (info.get("recipe") or {}).get("classify"), (info.get("models") or {}).get("classify")
    return (ClassifyParams.model_validate(params) if params else None), (dict(model) if model else None)
