"""Writes what people change in the cells of a slide into its folder: a little later, all at once, in a thread."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from weakref import ref

import numpy as np
from napari.utils.notifications import show_error
from qtpy.QtCore import QCoreApplication, QObject, QRunnable, QThreadPool, QTimer, Signal

from napari_bloodcell.core.errors import BloodCellError, InputError, OutputError
from napari_bloodcell.core.params import ClassifyParams
from napari_bloodcell.napari.layers.features import boxes_in, by_hand, full_table, rows_of
from napari_bloodcell.napari.layers.links import full_resolution, info_of, names_of
from napari_bloodcell.napari.notify import logger
from napari_bloodcell.results.store import read_result
from napari_bloodcell.slides.save import repaint_types, write_corrected

if TYPE_CHECKING:
    import pandas as pd
    from napari.layers import Labels
    from numpy.typing import NDArray

    from napari_bloodcell.napari.layers.types import TypeLookup

    Box = tuple[int, int, int, int]

_Typing = tuple["ClassifyParams | None", "dict[str, str] | None"]

LATER_MS: Final = 2000
"""How long after the last change it is written."""
_KEEPER: Final = "napari_bloodcell_keeper"
_unsaved: set[SlideKeeper] = set()
"""Keepers with something to write: they live until it is written, also when their layer is removed."""


def keep_on_disk(cells_layer: Labels, lookup: TypeLookup) -> None:
    """Write what is changed in a cells layer that lies in the folder of a slide into that folder, from now on."""
    folder = info_of(cells_layer).get("folder")
    is_lazy = not isinstance(full_resolution(cells_layer), np.ndarray)
    if keeper_of(cells_layer) is None and is_lazy and folder is not None and Path(folder).is_dir():
        with suppress(InputError):
            read_result(folder)
            cells_layer.metadata[_KEEPER] = SlideKeeper(cells_layer, lookup, Path(folder))


def keeper_of(cells_layer: Labels) -> SlideKeeper | None:
    """Return who keeps a cells layer on disk, or None."""
    keeper = cells_layer.metadata.get(_KEEPER)
    return keeper if isinstance(keeper, SlideKeeper) and keeper.is_of(cells_layer) else None


class SlideKeeper(QObject):
    """Keeps the folder of a slide as its cells layer is."""

    saved = Signal()
    """Everything that was changed is in the folder."""

    def __init__(self, cells_layer: Labels, lookup: TypeLookup, folder: Path) -> None:
        super().__init__()
        self._layer, self._lookup, self.folder = ref(cells_layer), lookup, folder
        self._held: Labels | None = None
        self._codes = lookup.codes[:-1].copy()
        self._n_by_hand = int(by_hand(cells_layer.features).sum())
        self._known_typing = self._typing = _typing_of(cells_layer)
        self._boxes: list[Box] = []
        self._running: _Save | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(LATER_MS)
        self._timer.timeout.connect(self._on_time)
        cells_layer.events.features.connect(self._on_features)
        app = QCoreApplication.instance()
        if app is not None:
            app.aboutToQuit.connect(self.flush)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return this one: the copy of a layer is not what it keeps, as `is_of` tells."""
        return self

    def is_of(self, cells_layer: Labels) -> bool:
        """Return whether this keeps that layer."""
        return self._layer() is cells_layer

    def touch(self, box: Box) -> None:
        """Hear that cells in a box (y0, x0, y1, x1) of the finest level have other pixels now."""
        self._boxes.append(box)
        self._later()

    def flush(self) -> None:
        """Write what is left, here and now."""
        self._timer.stop()
        pool = QThreadPool.globalInstance()
        if self._running is not None and pool is not None:
            pool.waitForDone()
        self._running = None
        save = self._changes()
        if save is not None:
            save.write()
        self._rest()

    def _on_features(self, _event: object = None) -> None:
        self._later()

    def _later(self) -> None:
        self._held = self._layer()
        _unsaved.add(self)
        if QCoreApplication.instance() is not None:
            self._timer.start()

    def _on_time(self) -> None:
        if self._running is not None:
            self._timer.start()
            return
        save = self._changes()
        if save is None:
            self._rest()
            return
        self._running = save
        save.signals.done.connect(self._on_saved)
        pool = QThreadPool.globalInstance()
        if pool is not None:
            pool.start(save)

    def _on_saved(self, error: object) -> None:
        self._running = None
        if error is not None:
            show_error(f"What was changed in {self.folder} is not saved: {error}")
        if not self._timer.isActive():
            self._rest()

    def _rest(self) -> None:
        self._held = None
        _unsaved.discard(self)
        self.saved.emit()

    def _changes(self) -> _Save | None:
        """Return what has to be written, or None; it counts as written from now on."""
        layer = self._held or self._layer()
        if layer is None:
            return None
        codes, features = self._lookup.codes[:-1].copy(), layer.features
        n = max(len(codes), len(self._codes))
        before, now = (np.pad(c, (0, n - len(c))) for c in (self._codes, codes))
        n_by_hand = int(by_hand(features).sum())
        changed = boxes_in(features, rows_of(features, np.flatnonzero(before != now)))
        boxes = np.concatenate([np.array(self._boxes, np.int64).reshape(-1, 4), changed if changed is not None else []])
        typing = _typing_of(layer)
        if not len(boxes) and n_by_hand == self._n_by_hand and typing == self._typing:
            return None
        self._codes, self._n_by_hand, self._typing, self._boxes = codes, n_by_hand, typing, []
        typed_anew = typing if typing != self._known_typing else (None, None)
        return _Save(self.folder, features.copy(), names_of(layer), codes, boxes, typed_anew)


class _Signals(QObject):
    done = Signal(object)
    """An error, or None."""


class _Save(QRunnable):
    """Writes a state of the cells."""

    def __init__(
        self,
        folder: Path,
        features: pd.DataFrame,
        names: list[str],
        codes: NDArray[np.uint8],
        boxes: NDArray[np.int64],
        typing: _Typing,
    ) -> None:
        super().__init__()
        self.signals = _Signals()
        self.setAutoDelete(False)
        self._folder, self._features, self._names, self._codes, self._boxes = folder, features, names, codes, boxes
        self._typing = typing

    def write(self) -> None:
        """Write it."""
        repaint_types(self._folder, self._codes, self._boxes)
        params, classifier = self._typing
        write_corrected(self._folder, full_table(self._features), self._names, typed_with=params, classifier=classifier)

    def run(self) -> None:
        """Write it in a thread of Qt's."""
        error: BloodCellError | None = None
        try:
            self.write()
        except BloodCellError as problem:
            error = problem
        except Exception as problem:
            logger.info("a slide could not be kept on disk", exc_info=True)
            error = OutputError(f"{type(problem).__name__}: {problem}")
        self.signals.done.emit(error)


def _typing_of(cells_layer: Labels) -> _Typing:
    """Return the settings of a layer's last typing, and name and hash of its model, where they are noted."""
    info = info_of(cells_layer)
    params, model = (info.get("recipe") or {}).get("classify"), (info.get("models") or {}).get("classify")
    return (ClassifyParams.model_validate(params) if params else None), (dict(model) if model else None)
