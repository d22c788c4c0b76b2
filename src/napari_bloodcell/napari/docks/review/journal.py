"""The review's journal: each correction goes to the disk at once, and comes back when the image is opened again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_bloodcell.core.errors import BloodCellError, InputError, OutputError
from napari_bloodcell.corrections.journal import Correction, Journal, default_journal_folder, image_hash, merge, place
from napari_bloodcell.napari.docks.review.session import review_session
from napari_bloodcell.napari.layers.cells import full_resolution, image_layer_for, info_of
from napari_bloodcell.napari.layers.features import places_of
from napari_bloodcell.napari.layers.images import image_source
from napari_bloodcell.napari.layers.keeper import keeper_of
from napari_bloodcell.napari.notify import logger
from napari_bloodcell.napari.preferences import annotator_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from napari.components import ViewerModel
    from napari.layers import Image, Labels

    from napari_bloodcell.corrections.agreement import Dispute, Merged
    from napari_bloodcell.napari.docks.review.session import ReviewSession, Step
    from napari_bloodcell.napari.layers.images import PlaneIndex


@dataclass(frozen=True, slots=True)
class Found:
    """What a journal knows of the cells of a layer.

    Attributes
    ----------
    types : dict of int to str
        Type by id.
    lost : list of Correction
        Those whose cell is not there.
    n_corrections : int
        How many the journal holds.
    """

    types: dict[int, str]
    lost: list[Correction]
    n_corrections: int


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """What came of merging another journal.

    Attributes
    ----------
    merged : Merged
        Agreement, with kappa.
    disputes : list of (int, Dispute)
        With the id of the cell, 0 where it is not there.
    n_taken : int
        Corrections that were taken over.
    """

    merged: Merged
    disputes: list[tuple[int, Dispute]]
    n_taken: int


class ReviewJournal(QObject):
    """Writes the steps of a review, in their order, in a thread of its own; signals arrive on the GUI thread.

    Parameters
    ----------
    session : ReviewSession
        Followed until `close`.
    image_layer : Image
        The image, by whose content its corrections are found again.
    journal : Journal
        Where they are kept.
    """

    found = Signal(object)
    """`Found`, after `look_up`."""
    second_opinion = Signal(object)
    """`SecondOpinion`, after `merge_with`."""
    written = Signal(int)
    """How many corrections were written by one step."""
    failed = Signal(object)
    """`BloodCellError`."""

    def __init__(self, session: ReviewSession, image_layer: Image, journal: Journal) -> None:
        super().__init__()
        self.annotator = annotator_name()
        self._session, self._journal = session, journal
        self._source = image_source(image_layer)
        self._hashes: dict[PlaneIndex, str] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._is_closed = False
        session.journal = self
        session.events.typed.connect(self._on_typed)
        session.events.undone.connect(self._on_taken_back)
        session.events.redone.connect(self._on_taken_back)

    def look_up(self) -> None:
        """Find the corrections of this image, and their cells; `found` tells."""
        cells = full_resolution(self._session.layer)
        planes = self._planes()
        self._submit(lambda: self.found.emit(self._find(cells, planes)))

    def merge_with(self, path: Path) -> None:
        """Take over what another person said and I did not; `second_opinion` tells of that, and of what differs."""
        cells = full_resolution(self._session.layer)
        planes = self._planes()
        self._submit(lambda: self._merge(path, cells, planes))

    def find(self) -> Found:
        """Find the corrections of this image, and their cells, here and now; `look_up` does it in the thread."""
        return self._find(full_resolution(self._session.layer), self._planes())

    def wait(self) -> None:
        """Return when everything is on the disk."""
        if not self._is_closed:
            self._thread.submit(lambda: None).result()

    def close(self) -> None:
        """Write what is left, and follow nothing any more."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._session.journal is self:
            self._session.journal = None
        events = self._session.events
        events.typed.disconnect(self._on_typed)
        events.undone.disconnect(self._on_taken_back)
        events.redone.disconnect(self._on_taken_back)
        self._thread.shutdown(wait=True)

    def _submit(self, job: Callable[[], object]) -> None:
        if not self._is_closed:
            self._thread.submit(self._guarded, job)

    def _guarded(self, job: Callable[[], object]) -> None:
        """Run a job in the thread; what it raises becomes a signal."""
        try:
            job()
        except BloodCellError as error:
            self.failed.emit(error)
        except Exception as error:
            logger.info("the journal failed", exc_info=True)
            self.failed.emit(OutputError(f"The journal of corrections failed ({type(error).__name__}: {error})."))

    def _on_typed(self, event: Any) -> None:
        """Write what a person said of cells in a step."""
        step: Step = event.value
        mine = np.flatnonzero(step.after.sources == "user")
        if not len(mine):
            return
        layer = self._session.layer
        cells = full_resolution(layer)
        model = (info_of(layer).get("models") or {}).get("classify") or {}
        places = places_of(layer.features, step.ids[mine].tolist(), cells.shape[:-2])
        corrections = []
        for row in mine.tolist():
            cell = int(step.ids[row])
            if cell not in places:
                continue
            before = step.before
            if before.sources[row] != "user" and before.types[row]:
                sure = float(before.probabilities[row])
                self._session.model_said[cell] = str(before.types[row]), sure if np.isfinite(sure) else None
            said, sure_of_it = self._session.model_said.get(cell, ("", None))
            what = {
                "from_type": str(before.types[row]),
                "to_type": str(step.after.types[row]),
                "annotator": self.annotator,
                "model": str(model.get("name", "")),
                "model_sha256": str(model.get("sha256", "")),
                "model_type": said,
                "model_probability": sure_of_it,
            }
            corrections.append((cell, *places[cell], what))
        self._submit(lambda: self._write(step, cells, corrections))

    def _on_taken_back(self, event: Any) -> None:
        """Write that a step was taken back, or that its taking back was."""
        step: Step = event.value
        self._submit(lambda: self._write_undo(step))

    def _write(self, step: Step, cells: Any, corrections: list[tuple[int, Any, PlaneIndex, dict[str, Any]]]) -> None:
        for cell, box, plane, what in corrections:
            image = cells[plane] if plane else cells  # all of it is never read
            correction = Correction.of_cell(image, cell, box, image_sha256=self._hash_of(plane), **what)
            self._journal.append(correction)
            step.written.append(correction)
        self.written.emit(len(step.written))

    def _write_undo(self, step: Step) -> None:
        back = [correction.undo() for correction in step.written]
        for correction in back:
            self._journal.append(correction)
        step.written[:] = back
        self.written.emit(0)

    def _hash_of(self, plane: PlaneIndex) -> str:
        if plane not in self._hashes:
            self._hashes[plane] = image_hash(self._source.data[plane] if plane else self._source.data)
        return self._hashes[plane]

    def _planes(self) -> list[PlaneIndex]:
        return list(self._source.plane_indices()) if self._source.stack_shape else [()]

    def _known(self, planes: Iterable[PlaneIndex]) -> dict[PlaneIndex, list[Correction]]:
        return {plane: self._journal.read(self._hash_of(plane)) for plane in planes}

    def _find(self, cells: Any, planes: list[PlaneIndex]) -> Found:
        types: dict[int, str] = {}
        lost: list[Correction] = []
        n_corrections = 0
        for plane, corrections in self._known(planes).items():
            placed = place(corrections, cells[plane] if plane else cells)
            types |= placed.found
            lost += placed.lost
            n_corrections += len(corrections)
        return Found(types, lost, n_corrections)

    def _merge(self, path: Path, cells: Any, planes: list[PlaneIndex]) -> None:
        mine = [c for corrections in self._known(planes).values() for c in corrections]
        theirs = Journal(path).read()
        here = set(self._hashes.values())
        merged = merge([mine, [c for c in theirs if c.image_sha256 in here]])
        disputed = {c.key for dispute in merged.disputes for c in dispute.corrections}
        known = {c.key for c in mine}
        taken = [c for c in theirs if c.key not in known | disputed and c.image_sha256 in here]
        for correction in taken:
            self._journal.append(correction)
        hashes = {sha: plane for plane, sha in self._hashes.items()}
        disputes = []
        for dispute in merged.disputes:
            first = dispute.corrections[0]
            plane = hashes.get(first.image_sha256, ())
            found = place([first], cells[plane] if plane else cells).found
            disputes.append((next(iter(found), 0), dispute))
        self.second_opinion.emit(SecondOpinion(merged, disputes, len(taken)))
        self.found.emit(self._find(cells, planes))


def correct(viewer: ViewerModel, cells_layer: Labels, types: Mapping[int, str], annotator: str | None = None) -> int:
    """Give cells types as a person's decisions, written to the journal; return how many cells that are."""
    session = review_session(viewer, cells_layer)
    ids: dict[str, list[int]] = {}
    for cell, name in types.items():
        ids.setdefault(name, []).append(int(cell))
    with _journal_of(session) as journal:
        usual, journal.annotator = journal.annotator, annotator or journal.annotator
        try:
            for name in ids:
                if name not in session.classes.names:
                    session.add_class(name)
            return sum(session.type_cells(cells, name) for name, cells in ids.items())
        finally:
            journal.wait()
            journal.annotator = usual
            keeper = keeper_of(cells_layer)
            if keeper is not None:
                keeper.flush()


def restore(viewer: ViewerModel, cells_layer: Labels) -> list[Correction]:
    """Bring corrections of this image back, and return those whose cell is not there."""
    session = review_session(viewer, cells_layer)
    with _journal_of(session) as journal:
        found = journal.find()
        session.restore(found.types)
    return found.lost


@contextmanager
def _journal_of(session: ReviewSession) -> Iterator[ReviewJournal]:
    """Yield the journal that an open dock writes, or one that is closed after."""
    if isinstance(session.journal, ReviewJournal):
        yield session.journal
        return
    image_layer = image_layer_for(session.viewer, session.layer)
    if image_layer is None:
        raise InputError(f"The image of {session.layer.name!r} is not in the viewer: corrections are kept with it.")
    journal = ReviewJournal(session, image_layer, Journal(default_journal_folder()))
    try:
        yield journal
    finally:
        journal.close()
