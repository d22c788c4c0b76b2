"""Regions of interest in pixels of an image: the rectangles of a Shapes layer, and what the window shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from napari_bloodcell.errors import InputError
from napari_bloodcell.widgets._images import image_source, visible_box

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.layers import Image, Shapes

    Box = tuple[int, int, int, int]


def box_of_view(image_layer: Image) -> Box:
    """Return what the window shows of an image, (y0, x0, y1, x1) in pixels.

    Raises
    ------
    InputError
        If nothing of it is in sight.
    """
    box = visible_box(image_layer)
    if box is None:
        raise InputError(f"Nothing of {image_layer.name!r} is in sight. Move the image into the window.")
    return box


def boxes_of_shapes(shapes: Shapes, image_layer: Image) -> list[Box]:
    """Return the boxes around the selected shapes, or around all where none is selected, in pixels of the image.

    Raises
    ------
    InputError
        If there is no shape, or none over the image.
    """
    chosen = sorted(shapes.selected_data) or range(len(shapes.data))
    height, width = image_source(image_layer).shape[-2:]
    boxes = []
    for i in chosen:
        corners = np.array([image_layer.world_to_data(shapes.data_to_world(vertex))[-2:] for vertex in shapes.data[i]])
        y0, x0 = np.floor(corners.min(axis=0) + 0.5).astype(int)
        y1, x1 = np.ceil(corners.max(axis=0) + 0.5).astype(int)
        box = (max(int(y0), 0), max(int(x0), 0), min(int(y1), height), min(int(x1), width))
        if box[0] < box[2] and box[1] < box[3]:
            boxes.append(box)
    if not boxes:
        raise InputError(f"{shapes.name!r} has no shape over {image_layer.name!r}. Draw a rectangle there first.")
    return boxes


def boxes_of(region: Box | Shapes | Literal["view"] | None, image_layer: Image) -> Sequence[Box]:
    """Return the boxes of a region as a script gives it; none for the whole image.

    Raises
    ------
    InputError
        If it is no region, or nothing of the image lies in it.
    """
    if region is None:
        return []
    if isinstance(region, str):
        if region != "view":
            raise InputError(f'The region is {region!r}; give (y0, x0, y1, x1), a Shapes layer or "view".')
        return [box_of_view(image_layer)]
    if isinstance(region, tuple):
        return [region]
    return boxes_of_shapes(region, image_layer)
