"""Slides and their results as layer data: pyramids that are read lazily."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from napari_bloodcell.images.files import MAX_PIXELS, check_size
from napari_bloodcell.images.image import Level, SlideImage
from napari_bloodcell.images.microscopes import scenes_of
from napari_bloodcell.images.open import LARGE_PX, Stack, open_image, open_stack
from napari_bloodcell.napari.layers.features import to_features
from napari_bloodcell.results.files import ZARR
from napari_bloodcell.results.ome_zarr import COARSEST, halvings, open_levels
from napari_bloodcell.results.result import Result
from napari_bloodcell.results.store import read_result, record_of

_OF_LABELS: Final = tuple(np.dtype(f"{kind}{size}") for kind in "iu" for size in (4, 8))
LayerData = tuple[Any, dict[str, Any], str]

MOST_PIXELS_HALVED: Final = 2**28
"""An image without a pyramid gets one in memory up to this size; a larger one is read in steps."""


def read_slide(path: str | Path) -> list[LayerData]:
    """Read an image of any size as one RGB layer with its pixel size: a stack of planes, a picture, or a pyramid.

    Of a microscope's file with several scenes each is a layer. Raises `InputError` if it cannot be opened, or is a
    stack too large for memory.
    """
    return [_read_stack(open_stack(scene)) for scene in scenes_of(Path(path))]


def _read_stack(stack: Stack) -> LayerData:
    if np.dtype(stack.file.levels[0].dtype) in _OF_LABELS:
        return _read_labels(stack)
    if stack.shape:
        return _read_planes(stack)
    slide = stack.image()
    about = {"name": slide.name, "rgb": True, **placement_um(slide.pixel_size_um)}
    if len(slide.levels) == 1 and slide.n_pixels <= LARGE_PX:
        return slide.read_whole(), about, "image"
    return levels_to_show(slide.with_displayed_values()), {**about, "multiscale": True}, "image"


def _read_labels(stack: Stack) -> LayerData:
    """Read what napari, and other programs, save of a Labels layer: no image has integers of so many bits."""
    array = stack.file.levels[0]
    check_size(array.shape, MAX_PIXELS, stack.source or "The label image")
    labels = np.squeeze(np.asarray(array[(slice(None),) * len(array.shape)]))
    place = placement_um(stack.file.pixel_size_um, stack.further[: max(0, labels.ndim - 2)])
    return labels, {"name": stack.name, **place}, "labels"


def _read_planes(stack: Stack) -> LayerData:
    planes = [stack.image(index) for index in np.ndindex(stack.shape)]
    shape = (*stack.shape, *planes[0].shape, 3)
    check_size(shape, MAX_PIXELS, stack.source or "The image")
    pixels = np.stack([plane.read_whole() for plane in planes]).reshape(shape)
    return pixels, {"name": stack.name, "rgb": True, **placement_um(planes[0].pixel_size_um, stack.further)}, "image"


def read_slide_result(folder: str | Path) -> list[LayerData]:
    """Read the result of a slide as layers: the image, and the cells as a pyramid on disk with their table.

    `layers.cells.relink` makes the types layer from the cells. Raises `InputError` if there is no intact result.
    """
    folder = Path(folder)
    result = read_result(folder)
    info = {
        "kind": "cells",
        "image": result.image_name,
        "names": result.names,
        **info_of_result(result),
        "folder": str(folder.resolve()),
    }
    slide = _image_of(result)
    place = placement_um(result.pixel_size_um)
    layers: list[LayerData] = []
    if slide is not None:
        about = {"name": result.image_name, "rgb": True, "multiscale": True, **place}
        layers.append((levels_to_show(slide), about, "image"))
    levels = open_levels(folder / ZARR, "labels/cells", "r+")
    is_pyramid = len(levels) > 1  # napari refuses labels of a single level
    cells = {
        "name": f"{result.image_name} cells",
        "features": to_features(result.table),
        "multiscale": is_pyramid,
        "opacity": 0.6,
        "metadata": {"napari_bloodcell": info},
        **place,
    }
    return [*layers, (levels if is_pyramid else levels[0], cells, "labels")]


def info_of_result(result: Result) -> dict[str, Any]:
    """Return a result's provenance, as the metadata of its cells layer hold it."""
    record = record_of(result) if result.record is None else result.record
    return {
        "recipe": record.recipe.model_dump(mode="json"),
        "models": {stage: model.model_dump() for stage, model in record.models.items()},
        "calibration": asdict(record.calibration),
        "image_sha256": record.image.sha256,
        "device": record.device,
        "versions": record.packages,
        "failed_tiles": [{"name": t.name, "box": list(t.box), "error": t.error} for t in result.failed_tiles],
        "warnings": list(result.warnings),
    }


def levels_to_show(slide: SlideImage) -> list[Any]:
    """Return the levels of a slide, with coarser ones added if it has no pyramid."""
    levels: list[Any] = list(slide.levels)
    if len(levels) > 1 or max(slide.shape) <= COARSEST:
        return levels
    if slide.n_pixels <= MOST_PIXELS_HALVED and slide.levels[0].chunks is None:
        planes = halvings(np.moveaxis(np.asarray(slide.levels[0]), -1, 0), is_label=False)
        return [np.ascontiguousarray(np.moveaxis(plane, 0, -1)) for plane in planes]
    step = 2
    while max(slide.shape) / step > COARSEST / 2:
        levels.append(open_image(_EveryNth(slide.levels[0], step)).levels[0])
        step *= 2
    return levels


class _EveryNth:
    """Every n-th pixel of an array (Y, X, 3), read on slicing."""

    def __init__(self, level: Level, step: int) -> None:
        self._level, self._step, self.dtype = level, step, level.dtype
        self.shape = (-(-level.shape[0] // step), -(-level.shape[1] // step), 3)

    def __getitem__(self, key: tuple[slice, ...]) -> Any:
        places = []
        for one, n in zip(key[:2], self.shape, strict=False):
            start, stop, _ = one.indices(n)
            places.append(slice(start * self._step, stop * self._step, self._step))
        return self._level[tuple(places)]


def _image_of(result: Result) -> SlideImage | None:
    """Return the image of a result: its copy, or its source if that still exists."""
    if result.folder is None or result.plan is None:
        return None
    if result.plan.copies_image:
        return open_image(result.folder / ZARR)
    source = result.plan.source
    return open_image(source).with_displayed_values() if source is not None and Path(source).exists() else None


def placement_um(pixel_size_um: float | None, further: Sequence[str] = ()) -> dict[str, Any]:
    """Return names of the axes of a layer, `further` ones before y and x, and scale and units if they are known."""
    place: dict[str, Any] = {"axis_labels": (*further, "y", "x")}
    if pixel_size_um is None:
        return place
    n = len(further)
    return place | {"scale": (1.0,) * n + (pixel_size_um,) * 2, "units": ("pixel",) * n + ("micrometer",) * 2}
