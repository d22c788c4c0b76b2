"""The pictures beside a result: overlay and KDE."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from napari_bloodcell.core.files import staged
from napari_bloodcell.images.plane import Plane
from napari_bloodcell.results.files import KDE, OVERLAY
from napari_bloodcell.results.result import Result


def pictures_of_smear(
    result: Result, plane: Plane, *, overlay: bool = True, kde: bool = True
) -> dict[str, Callable[[Path], object]]:
    """Return the function that draws each picture, by file name, for `store.write_result`."""

    def draw_overlay(path: Path) -> None:
        from napari_bloodcell.results.plot import save_overlay_png

        found = (result.cells, result.types, result.names)
        save_overlay_png(path, plane.data, *found, counts=result.counts, interval=result.counting.interval)

    def draw_kde(path: Path) -> None:
        from napari_bloodcell.results.plot import save_kde_png

        save_kde_png(path, result.counting, pixel_size_um=result.pixel_size_um)

    pictures: dict[str, Callable[[Path], object]] = {}
    if overlay:
        pictures[OVERLAY] = draw_overlay
    if kde:
        pictures[KDE] = draw_kde
    return pictures


def write_pictures_of_slide(result: Result, *, overlay: bool = True, kde: bool = True) -> None:
    """Draw overlay, at the coarsest pyramid level, and KDE, whole or not at all; may raise `OutputError`."""
    from napari_bloodcell.results.plot import save_kde_png, save_overlay_png

    counting = result.counting
    if result.folder is None:
        raise ValueError("a result in memory has no folder")
    with staged(result.folder, last=KDE) as stage:
        if overlay:
            counts, interval = result.counts, counting.interval
            save_overlay_png(stage / OVERLAY, *result.overview(), result.names, counts=counts, interval=interval)
        if kde:
            save_kde_png(stage / KDE, counting, pixel_size_um=result.pixel_size_um)
