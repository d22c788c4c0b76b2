"""Opens the session of a cells layer, and restores earlier corrections."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final
from weakref import ref

from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.utils.notifications import show_info

from napari_bloodcell.core.errors import BloodCellError, InputError
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.features import INDEX
from napari_bloodcell.napari.session.classes import show_classes, with_classes_of_others
from napari_bloodcell.napari.session.journal import Found, describe_found
from napari_bloodcell.napari.session.kept import Contents, keep
from napari_bloodcell.napari.session.session import CellsSession

_SESSION: Final = "napari_bloodcell_session"


def cells_session(viewer: ViewerModel, cells_layer: Labels) -> CellsSession:
    """Return the session of a cells layer, which lives as long as the layer, with its undo history.

    While its history is empty, it adopts the user's classes from other images of the viewer. Raises `InputError` if
    this is not a cells layer.
    """
    if not links.is_cells(cells_layer):
        raise InputError(f"The layer {getattr(cells_layer, 'name', None)!r} holds no cells. Segment the image first.")
    session = cells_layer.metadata.get(_SESSION)
    if not isinstance(session, CellsSession) or not session.is_of(viewer, cells_layer):
        session = cells_layer.metadata[_SESSION] = CellsSession(viewer, cells_layer)
        bind_undo(cells_layer, session)
        keep(viewer, cells_layer, partial(_by_hand, ref(session)))
    if not session.history.done and not session.history.undone and "cell_type" in cells_layer.features.columns:
        classes = with_classes_of_others(viewer, cells_layer)
        if classes != session.classes:
            show_classes(viewer, cells_layer, classes)
    return session


def open_cells(viewer: ViewerModel, cells_layer: Labels) -> CellsSession:
    """Link a cells layer that was read, or comes from another program, to its image; return its session."""
    layers.relink(viewer, cells_layer)
    return cells_session(viewer, cells_layer)


def bring_back(viewer: ViewerModel, image_layer: Image, kept: Contents) -> Labels:
    """Show cells of an image that were kept another day, and return their layer."""
    layer = layers.add_cells(viewer, image_layer, cells=kept.cells)
    links.info_of(layer).update({k: v for k, v in kept.info.items() if k not in ("kind", "image", "image_id")})
    layers.set_table(layer, kept.table)
    layers.add_types(viewer, layer)
    session = cells_session(viewer, layer)
    session.by_hand = kept.by_hand
    session.put_back_soon(show_put_back)
    return layer


def _by_hand(find: Callable[[], CellsSession | None]) -> frozenset[int]:
    session = find()
    return session.by_hand if session is not None else frozenset()


def put_back(viewer: ViewerModel, cells_layer: Labels) -> str:
    """Restore earlier corrections of cells that were just found or typed; return what to tell the user."""
    session = cells_session(viewer, cells_layer)
    try:
        return describe_found(*session.put_back()) if session.journal.has_image else ""
    except BloodCellError as error:
        return str(error)


def show_put_back(found: Found, n_back: int) -> None:
    """Tell the user that earlier corrections were restored."""
    if n_back:
        show_info(describe_found(found, n_back))


def open_soon(viewer: ViewerModel) -> None:
    """Open the cells layers of results that are being read, once napari has made the layers."""

    def open_all() -> None:
        for layer in [one for one in viewer.layers if links.is_cells(one)]:
            session = open_cells(viewer, layer)
            if INDEX in layer.features.columns:
                session.put_back_soon(show_put_back)

    from qtpy.QtCore import QTimer

    QTimer.singleShot(0, open_all)


def bind_undo(layer: Labels, session: CellsSession) -> None:
    """Bind Ctrl+Z and Ctrl+Shift+Z on a layer to undo and redo of a session."""
    find = ref(session)

    def undo(_layer: Any) -> None:
        """Undo the last change of cells."""
        undo_by_key(find, "undo")

    def redo(_layer: Any) -> None:
        """Do the last undone change of cells again."""
        undo_by_key(find, "redo")

    layer.bind_key("Control-Z", undo, overwrite=True)
    layer.bind_key("Control-Shift-Z", redo, overwrite=True)


def undo_by_key(find: Callable[[], CellsSession | None], name: str) -> None:
    """Undo or redo in a session that may be gone; if there is nothing to undo, say so without an error."""
    session = find()
    if session is None:
        return
    try:
        getattr(session, name)()
    except BloodCellError as error:
        show_info(str(error))
