"""Regions of interest in pixels of an image, from Shapes layers or the view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.path import Path
from napari.layers import Image, Labels, Layer, Shapes
from numpy.typing import NDArray
from PIL import Image as PilImage
from PIL import ImageDraw

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.geometry import Box
from napari_bloodcell.napari.layers.images import image_source, plane_number, visible_box
from napari_bloodcell.napari.layers.links import full_resolution


def box_of_view(image_layer: Image) -> Box:
    """Return the part of an image inside the window, (y0, x0, y1, x1) in pixels; `InputError` if there is none."""
    box = visible_box(image_layer)
    if box is None:
        raise InputError(f"Nothing of {image_layer.name!r} is in sight. Move the image into the window.")
    return box


def boxes_of_shapes(shapes: Shapes, image_layer: Image) -> list[Box]:
    """Return the boxes around the selected shapes, or around all if none is selected, in pixels of the image.

    Raises `InputError` if there is no shape over the image.
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
    """Return the boxes of a region as a script gives it; none for the whole image."""
    if region is None:
        return []
    if isinstance(region, str):
        if region != "view":
            raise InputError(f'The region is {region!r}; give (y0, x0, y1, x1), a Shapes layer or "view".')
        return [box_of_view(image_layer)]
    if isinstance(region, tuple):
        return [region]
    return boxes_of_shapes(region, image_layer)


FINEST_PX = 2048
"""Longest side of the raster on which the area of overlapping shapes is measured."""
_CORNERS = 90
_AREAS = ("rectangle", "polygon", "ellipse")


@dataclass(frozen=True, eq=False)
class Region:
    """Outlines in pixels of a label image."""

    outlines: list[NDArray[np.float64]]  # corners (y, x) of each shape, (N, 2)
    planes: list[int | None]  # of each shape; None: on all planes
    shape: tuple[int, ...]  # of the label image, (…, Y, X)

    def contains(
        self, centroids: NDArray[np.floating[Any]], planes: NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.bool_]:
        """Return which cells lie in the region, given their centroids (N, 2), (y, x), and their planes (N,)."""
        inside = np.zeros(len(centroids), bool)
        for outline, plane in zip(self.outlines, self.planes, strict=True):
            near = np.all((centroids >= outline.min(0)) & (centroids <= outline.max(0)), axis=1)
            if plane is not None and planes is not None:
                near &= planes == plane
            found = np.flatnonzero(near & ~inside)
            inside[found] = Path(outline).contains_points(centroids[found])
        return inside

    def area_px(self, plane: int | None = None, *, within: tuple[float, float, float, float] | None = None) -> float:
        """Return the area within the image in pixels², overlaps counted once; of one plane, or summed over all.

        `within` is the rectangle (low y, low x, high y, high x), pixels, that stands for the image.
        """
        if within is None:
            within = (-0.5, -0.5, self.shape[-2] - 0.5, self.shape[-1] - 0.5)
        everywhere = [o for o, on in zip(self.outlines, self.planes, strict=True) if on is None]
        alone = sorted({on for on in self.planes if on is not None})
        wanted = alone if plane is None else [plane]
        total = 0.0
        for one in wanted:
            total += self._union_px(
                [o for o, on in zip(self.outlines, self.planes, strict=True) if on in (None, one)], within
            )
        if plane is None:
            n_planes = int(np.prod(self.shape[:-2], dtype=np.int64))
            total += (n_planes - len(alone)) * self._union_px(everywhere, within)
        return total

    def _union_px(self, outlines: list[NDArray[np.float64]], within: tuple[float, float, float, float]) -> float:
        if not outlines:
            return 0.0
        least, limit = np.array(within[:2]), np.array(within[2:])
        low = np.maximum(np.min([o.min(0) for o in outlines], axis=0), least)
        high = np.minimum(np.max([o.max(0) for o in outlines], axis=0), limit)
        side = high - low
        if np.any(side <= 0):
            return 0.0
        is_within = np.all([np.all((o >= least) & (o <= limit)) for o in outlines])
        if len(outlines) == 1 and is_within:
            y, x = outlines[0].T
            return float(abs(np.dot(y, np.roll(x, 1)) - np.dot(x, np.roll(y, 1))) / 2)
        raster = PilImage.new("1", (FINEST_PX, FINEST_PX))
        pen = ImageDraw.Draw(raster)
        for outline in outlines:
            places = (outline - low) / side * FINEST_PX - 0.5
            pen.polygon([(float(x), float(y)) for y, x in places], fill=1)
        return float(np.asarray(raster).mean() * side.prod())


def region_of(shapes_layer: Shapes, cells_layer: Labels) -> Region:
    """Return the rectangles, polygons and ellipses of a Shapes layer in pixels of a cells layer.

    Raises `InputError` if there are none: lines enclose no area.
    """
    shape = tuple(int(n) for n in full_resolution(cells_layer).shape)
    outlines: list[NDArray[np.float64]] = []
    planes: list[int | None] = []
    factors = _unit_factors(shapes_layer, cells_layer)
    for kind, data in zip(shapes_layer.shape_type, shapes_layer.data, strict=True):
        if kind not in _AREAS:
            continue
        corners = np.asarray(data, float)
        if kind == "ellipse":
            corners = _ellipse(corners)
        world = np.array([shapes_layer.data_to_world(corner) for corner in corners]) * factors
        pixels = np.array([cells_layer.world_to_data(place) for place in world])
        outlines.append(pixels[:, -2:])
        is_on_one = shapes_layer.ndim >= cells_layer.ndim > 2
        position = np.clip(np.round(pixels[0, :-2]), 0, np.array(shape[:-2]) - 1).astype(int) if is_on_one else None
        planes.append(None if position is None else plane_number(tuple(int(p) for p in position), shape[:-2]))
    if not outlines:
        raise InputError(
            f"{shapes_layer.name!r} holds no rectangle, polygon or ellipse: draw one around the cells to count."
        )
    return Region(outlines, planes, shape)


def _ellipse(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points on the ellipse that fills a rectangle, given its four corners."""
    centre = corners.mean(0)
    first, second = (corners[1] - corners[0]) / 2, (corners[2] - corners[1]) / 2
    angle = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)[:, None]
    return np.asarray(centre + np.cos(angle) * first + np.sin(angle) * second, np.float64)


def _unit_factors(layer: Layer, other: Layer) -> NDArray[np.float64]:
    """Return one unit of each axis of `layer` in units of `other`; 1 if they are incompatible."""
    factors = np.ones(layer.ndim)
    for i in range(1, min(layer.ndim, other.ndim) + 1):
        one, another = layer.units[-i], other.units[-i]
        if one.is_compatible_with(another):
            factors[-i] = float((1.0 * one).to(another).magnitude)
    return factors
