"""Keeps the cells of open images by themselves, beside the journal, so that they can be brought back another day."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from weakref import ref

import numpy as np
import pandas as pd
from napari.components import ViewerModel
from napari.layers import Labels
from napari.utils.events import Event
from numpy.typing import NDArray

from napari_bloodcell.core.errors import READ_ERRORS, InputError, reason_of
from napari_bloodcell.core.files import make_folder, write_bytes
from napari_bloodcell.corrections.journal import default_journal_folder, image_hash
from napari_bloodcell.napari.layers.features import PLANE, full_table
from napari_bloodcell.napari.layers.images import ImageSource, image_source
from napari_bloodcell.napari.layers.links import full_resolution, has_table, image_layer_for, info_of
from napari_bloodcell.napari.notify import notify_errors
from napari_bloodcell.results.table import read_csv, write_csv

if TYPE_CHECKING:
    from napari_bloodcell.napari.keeper_clock import KeeperClock

MOST_PX: Final = 2**26
"""More pixels of cells than this, as in a long stack, are not kept by themselves: copying them would take too long."""
_KEPT: Final = "napari_bloodcell_kept"
_UNREADABLE: Final[tuple[type[Exception], ...]] = (*READ_ERRORS, zipfile.BadZipFile)


def kept_folder() -> Path:
    """Return the folder of kept cells: one file for each image, named by its content."""
    return default_journal_folder() / "cells"


@dataclass(frozen=True, slots=True)
class Kept:
    """Cells that were kept another day."""

    path: Path
    when: str  # local time, for people
    n_cells: int
    n_by_hand: int  # outlined by a person

    def __str__(self) -> str:
        made = f", {self.n_by_hand:,} of them outlined by hand" if self.n_by_hand else ""
        return f"{self.n_cells:,} cells of {self.when}{made}"

    def read(self) -> Contents:
        """Read them; raise `InputError` if the file is missing or damaged."""
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                about = json.loads(str(stored["about"]))
                table = read_csv(io.StringIO(str(stored["table"])))
                cells = stored["cells"].astype(np.int32, copy=False)
        except _UNREADABLE as error:
            raise InputError(f"The kept cells {self.path} are missing or damaged: {reason_of(error)}.") from error
        if PLANE in table.columns:
            table[PLANE] = table[PLANE].astype(np.int64)
        return Contents(cells, table, about["info"], frozenset(about["by_hand"]))


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """What is kept of a layer of cells."""

    cells: NDArray[np.int32]  # (…, Y, X)
    table: pd.DataFrame  # index = id
    info: dict[str, Any]  # the plugin's metadata of the layer
    by_hand: frozenset[int]

    def write(self, source: ImageSource) -> None:
        """Write them into the file of their image; raise `OutputError` if that is impossible."""
        text = io.StringIO()
        write_csv(text, self.table)
        about = {"info": self.info, "by_hand": sorted(self.by_hand), "n_cells": len(self.table)}
        about["when"] = datetime.now().strftime("%d %b %Y, %H:%M")
        stream = io.BytesIO()
        told = np.array(json.dumps(about, default=str))
        np.savez_compressed(stream, cells=self.cells, about=told, table=np.array(text.getvalue()))
        make_folder(kept_folder())
        write_bytes(_file_of(source), stream.getvalue())


def find_kept(source: ImageSource) -> Kept | None:
    """Return the cells that were kept of an image, or None; reads the image for its hash, so call it in a thread."""
    path = _file_of(source)
    try:
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
        return Kept(path, str(about["when"]), int(about["n_cells"]), len(about["by_hand"]))
    except _UNREADABLE:
        return None


def is_any_kept() -> bool:
    """Return whether cells of any image are kept."""
    return next(kept_folder().glob("*.npz"), None) is not None


def kept_of(cells_layer: Labels) -> Keeping | None:
    """Return what keeps the cells of a layer, or None: in a script, and for slides, which are on disk already."""
    found = cells_layer.metadata.get(_KEPT)
    return found if isinstance(found, Keeping) and found.is_of(cells_layer) else None


def keep(viewer: ViewerModel, cells_layer: Labels, by_hand: Callable[[], frozenset[int]]) -> None:
    """Keep the cells of a layer from now on, if there is a window; `by_hand` tells which a person outlined."""
    cells = full_resolution(cells_layer)
    if getattr(viewer, "window", None) is None or kept_of(cells_layer) is not None:
        return
    if isinstance(cells, np.ndarray) and cells.size <= MOST_PX:
        cells_layer.metadata[_KEPT] = Keeping(viewer, cells_layer, by_hand)


class Keeping:
    """Keeps a layer's cells a moment after each change, and knows whether they are saved as a result."""

    def __init__(self, viewer: ViewerModel, cells_layer: Labels, by_hand: Callable[[], frozenset[int]]) -> None:
        from napari_bloodcell.napari.keeper_clock import KeeperClock

        self._viewer, self._layer, self._by_hand = ref(viewer), ref(cells_layer), by_hand
        self._source: ImageSource | None = None
        self._is_kept = self.is_saved = True
        self.folder: Path | None = None
        """Where the result was saved."""
        self.clock: KeeperClock = KeeperClock(kept_folder(), self._next_save, lambda: None)
        cells_layer.events.features.connect(self._on_change)
        viewer.layers.events.removing.connect(self._on_removing)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return itself; `is_of` tells that it does not keep the copied layer."""
        return self

    def is_of(self, cells_layer: Labels) -> bool:
        """Return whether this keeps that layer."""
        return self._layer() is cells_layer

    def note_saved(self, folder: Path) -> None:
        """Note that the cells are saved as a result."""
        self.is_saved, self.folder = True, folder

    def flush(self) -> None:
        """Keep what was changed now."""
        self.clock.stop()
        save = self._next_save()
        if save is not None:
            save()

    def _on_change(self, _event: object = None) -> None:
        layer, viewer = self._layer(), self._viewer()
        if layer is None or viewer is None or not has_table(layer):
            return
        image = image_layer_for(viewer, layer)
        if image is not None:
            self._source = image_source(image)
        self._is_kept = self.is_saved = False
        self.clock.start()

    def _next_save(self) -> Callable[[], None] | None:
        layer, source = self._layer(), self._source
        if layer is None or source is None or self._is_kept:
            return None
        self._is_kept = True
        table = full_table(layer.features)
        if PLANE in layer.features.columns:
            table[PLANE] = layer.features[PLANE].to_numpy()[1:]
        cells = np.array(full_resolution(layer), np.int32)
        contents = Contents(cells, table, dict(info_of(layer)), self._by_hand())
        return lambda: contents.write(source)

    def _on_removing(self, event: Event) -> None:
        """Keep what was changed before the layer goes."""
        layer = event.source[event.index]
        if layer is self._layer():
            notify_errors(self.flush)
            event.source.events.removing.disconnect(self._on_removing)


def _file_of(source: ImageSource) -> Path:
    """Return the file of an image, named by the hashes of its planes."""
    planes = list(source.plane_indices()) if source.stack_shape else [()]
    hashes = [image_hash(source.data[plane] if plane else source.data) for plane in planes]
    name = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    return kept_folder() / f"{name}.npz"
