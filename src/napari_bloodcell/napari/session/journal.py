"""The journal of a cells layer: corrections are written at once, and come back with the image."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from weakref import ref

import numpy as np
from napari.components import ViewerModel
from napari.layers import Labels

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.geometry import Box
from napari_bloodcell.corrections.agreement import Dispute, Merged
from napari_bloodcell.corrections.audit import Drawn, audits_of
from napari_bloodcell.corrections.journal import (
    Correction,
    Journal,
    default_journal_folder,
    image_hash,
    merge,
    place,
    standing,
)
from napari_bloodcell.napari.layers.features import places_of
from napari_bloodcell.napari.layers.images import ImageSource, PlaneIndex, image_source
from napari_bloodcell.napari.layers.links import full_resolution, image_layer_for, info_of
from napari_bloodcell.napari.notify import notify_error
from napari_bloodcell.napari.preferences import annotator_name
from napari_bloodcell.napari.session.changes import TypeChange

T = TypeVar("T")

_THREAD: Final = ThreadPoolExecutor(
    1, thread_name_prefix="journal"
)  # one thread, so that reads and writes keep their order


@dataclass(frozen=True, slots=True)
class Found:
    """What the journal knows about the cells of a layer."""

    types: dict[int, str]  # class or kind by id, "" where only the mark was set
    lost: list[Correction]  # corrections whose cell is not there any more
    n_corrections: int  # still valid, that is, not undone
    abnormal: frozenset[int] = frozenset()  # ids of the cells that are marked


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """Another person's journal compared with one's own."""

    merged: Merged
    disputes: list[tuple[int, Dispute]]  # with the cell's id, 0 if it is not there any more
    taken: list[Correction]  # corrections that only the other person made, not in this journal yet
    said: dict[int, Correction]  # the last of them about a cell, by its id


@dataclass(frozen=True, slots=True)
class Decision:
    """A person's decision about a cell: where it lies, and the other fields of a `Correction`."""

    cell: int
    box: Box
    plane: PlaneIndex
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Audited:
    """An audit of this image: what each reader judged, and its cells as they were drawn."""

    name: str
    readers: dict[str, list[Correction]]
    cells: list[Drawn]


def decisions_of(
    cells_layer: Labels,
    change: TypeChange,
    annotator: str,
    model_opinions: dict[int, tuple[str, float | None]],
) -> list[Decision]:
    """Return the decisions that a change of types holds.

    `model_opinions` keeps type and probability that the model gave to cells that a person retyped since; it is updated.
    """
    model = (info_of(cells_layer).get("models") or {}).get("classify") or {}
    places = places_of(cells_layer.features, change.ids.tolist(), full_resolution(cells_layer).shape[:-2])
    before, after, said = change.before, change.after, []
    for row, cell in enumerate(change.ids.tolist()):
        if cell not in places:
            continue
        if before.sources[row] != "user" and before.types[row]:
            sure = float(before.probabilities[row])
            model_opinions[cell] = str(before.types[row]), sure if np.isfinite(sure) else None
        model_type, model_probability = model_opinions.get(cell, ("", None))
        fields = {
            "from_type": str(before.types[row]),
            "to_type": str(after.types[row]) if after.sources[row] == "user" else "",
            "from_subtype": str(before.kinds[row]),
            "to_subtype": str(after.kinds[row]) if after.kind_sources[row] == "user" else "",
            "from_abnormal": bool(before.is_abnormal[row]),
            "to_abnormal": bool(after.is_abnormal[row]),
            "annotator": annotator,
            "model": str(model.get("name", "")),
            "model_sha256": str(model.get("sha256", "")),
            "model_type": model_type,
            "model_probability": model_probability,
        }
        said.append(Decision(cell, *places[cell], fields))
    return said


class LayerJournal:
    """Reads and writes corrections of a cells layer's image, in a thread, one task after another."""

    def __init__(self, viewer: ViewerModel, cells_layer: Labels) -> None:
        self._viewer, self._layer = ref(viewer), ref(cells_layer)
        self._journal = Journal(default_journal_folder())
        self._hashes: dict[PlaneIndex, str] = {}
        self._hashed: Any = None  # pixels that the hashes belong to
        self.annotator = annotator_name()
        self.drawn: Mapping[str, Any] = {}  # in an audit: what corrections say about its sample

    @property
    def has_image(self) -> bool:
        """Whether the image is in the viewer; corrections are stored under its hash."""
        viewer = self._viewer()
        return viewer is not None and image_layer_for(viewer, self._layer()) is not None

    def write(self, corrections: list[Correction], said: Sequence[Decision]) -> Future[None]:
        """Write decisions, and append them to `corrections`."""
        (cells, source), drawn = self._layers(), dict(self.drawn)
        return _THREAD.submit(lambda: self._write(corrections, said, cells, source, drawn))

    def take_back(self, corrections: list[Correction]) -> Future[None]:
        """Write that corrections were undone; each is replaced by its undo, whose undo is a redo."""
        return _THREAD.submit(lambda: self._take_back(corrections))

    def take_over(self, corrections: Iterable[Correction]) -> Future[None]:
        """Write another person's corrections."""
        return _THREAD.submit(lambda: self._take_over(corrections))

    def look_up(self) -> Future[Found]:
        """Find the corrections of this image, and their cells."""
        cells, source = self._layers()
        return _THREAD.submit(lambda: self._find(cells, source))

    def compare(self, path: Path) -> Future[SecondOpinion]:
        """Compare with another person's journal, without writing."""
        cells, source = self._layers()
        return _THREAD.submit(lambda: self._compare(path, cells, source))

    def audits(self) -> Future[list[Audited]]:
        """Find the audits of this image, and their cells."""
        cells, source = self._layers()
        return _THREAD.submit(lambda: self._audits(cells, source))

    def _layers(self) -> tuple[Any, ImageSource]:
        viewer, layer = self._viewer(), self._layer()
        image_layer = image_layer_for(viewer, layer) if viewer is not None else None
        if layer is None or image_layer is None:
            name = layer.name if layer is not None else "these cells"
            raise InputError(f"The image of {name!r} is not in the viewer: corrections are kept with it.")
        return full_resolution(layer), image_source(image_layer)

    def _hash_of(self, source: ImageSource, plane: PlaneIndex) -> str:
        if self._hashed is not source.data:
            self._hashed, self._hashes = source.data, {}
        if plane not in self._hashes:
            self._hashes[plane] = image_hash(source.data[plane] if plane else source.data)
        return self._hashes[plane]

    def _write(
        self,
        corrections: list[Correction],
        said: Sequence[Decision],
        cells: Any,
        source: ImageSource,
        drawn: Mapping[str, Any],
    ) -> None:
        for one in said:
            image = cells[one.plane] if one.plane else cells  # read part by part
            sha256 = self._hash_of(source, one.plane)
            correction = Correction.of_cell(image, one.cell, one.box, image_sha256=sha256, **one.fields, **drawn)
            self._journal.append(correction)
            corrections.append(correction)

    def _take_back(self, corrections: list[Correction]) -> None:
        for i, correction in enumerate(corrections):
            corrections[i] = correction.undo()
            self._journal.append(corrections[i])

    def _take_over(self, corrections: Iterable[Correction]) -> None:
        for correction in corrections:
            self._journal.append(correction)

    def _known(self, source: ImageSource) -> dict[PlaneIndex, list[Correction]]:
        planes = source.plane_indices() if source.stack_shape else [()]
        return {plane: self._journal.read(self._hash_of(source, plane)) for plane in planes}

    def _find(self, cells: Any, source: ImageSource) -> Found:
        if self._journal.is_empty:
            return Found({}, [], 0)  # spares reading the image for its hash
        types: dict[int, str] = {}
        abnormal: set[int] = set()
        lost: list[Correction] = []
        n_corrections = 0
        for plane, corrections in self._known(source).items():
            stand = standing(corrections)
            placed = place(stand, cells[plane] if plane else cells)
            types |= placed.found
            abnormal |= {cell for cell, c in placed.by_cell.items() if c.to_abnormal}
            lost += placed.lost
            n_corrections += len(stand)
        return Found(types, lost, n_corrections, frozenset(abnormal))

    def _audits(self, cells: Any, source: ImageSource) -> list[Audited]:
        if self._journal.is_empty:
            return []
        audited: dict[str, Audited] = {}
        for plane, corrections in self._known(source).items():
            for name, readers in audits_of(corrections).items():
                said = [c for judged in readers.values() for c in judged]
                here = place(said, cells[plane] if plane else cells).by_cell
                drawn = [Drawn(cell, c.audit_type, c.audit_cells) for cell, c in here.items()]
                audit = audited.setdefault(name, Audited(name, {}, []))
                audit.cells.extend(drawn)
                for who, judged in readers.items():
                    audit.readers.setdefault(who, []).extend(judged)
        return list(audited.values())

    def _compare(self, path: Path, cells: Any, source: ImageSource) -> SecondOpinion:
        mine = [c for corrections in self._known(source).values() for c in corrections]
        planes = {sha256: plane for plane, sha256 in self._hashes.items()}
        theirs = [c for c in Journal(path).read() if c.image_sha256 in planes]
        if not theirs:
            raise InputError(f"{path} holds no correction of this image: nothing was taken over.")

        def place_in_plane(corrections: list[Correction]) -> dict[int, Correction]:
            found: dict[int, Correction] = {}
            for sha256, plane in planes.items():
                here = [c for c in corrections if c.image_sha256 == sha256]
                found |= place(here, cells[plane] if plane else cells).by_cell if here else {}
            return found

        merged = merge([mine, theirs])
        disputed = {c.key for dispute in merged.disputes for c in dispute.corrections}
        known = {c.key for c in mine}
        taken = [c for c in theirs if c.key not in known | disputed]
        disputes = [(next(iter(place_in_plane([d.corrections[0]])), 0), d) for d in merged.disputes]
        return SecondOpinion(merged, disputes, taken, place_in_plane(taken))


def describe_found(found: Found, n_back: int) -> str:
    """Return a summary of restored corrections; "" if there is nothing to tell."""
    parts = []
    if n_back:
        parts.append(f"{n_back:,} correction{'' if n_back == 1 else 's'} of another day restored.")
    if found.lost:
        n = len(found.lost)
        parts.append(f"{n:,} could not be: {'its cell is' if n == 1 else 'their cells are'} not there any more.")
    return " ".join(parts)


def later(call: Callable[[], T]) -> Future[T]:
    """Call a function after what the journal is doing."""
    return _THREAD.submit(call)


def when_done(future: Future[T], then: Callable[[T], object]) -> None:
    """Call `then` with a future's result: on the GUI thread, or without a window here and now. Errors are shown."""

    def finish(done: Future[T]) -> None:
        error = done.exception()
        if error is None:
            then(done.result())
        elif isinstance(error, Exception):
            notify_error(error)

    core = sys.modules.get("qtpy.QtCore")
    if core is None or core.QCoreApplication.instance() is None:
        finish(future)
        return
    from superqt.utils import ensure_main_thread

    future.add_done_callback(ensure_main_thread(finish))


def notify_if_failed(future: Future[Any]) -> None:
    """Show the error of a task whose result nobody awaits."""
    error = future.exception()
    if isinstance(error, Exception):
        notify_error(error)
