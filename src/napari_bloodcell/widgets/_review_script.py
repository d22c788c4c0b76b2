"""The review from a script: what the Review dock does, without a window."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from napari_bloodcell.errors import InputError
from napari_bloodcell.journal import Journal, default_journal_folder
from napari_bloodcell.widgets._layers import image_layer_for
from napari_bloodcell.widgets._review_journal import ReviewJournal
from napari_bloodcell.widgets._review_session import review_session
from napari_bloodcell.widgets._slide_keeper import keeper_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from napari.components import ViewerModel
    from napari.layers import Labels

    from napari_bloodcell.corrections import Correction
    from napari_bloodcell.widgets._review_session import ReviewSession


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
    if session.journal is not None:
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
