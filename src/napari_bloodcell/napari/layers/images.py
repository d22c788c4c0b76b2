"""Image layers as input of the analysis. `image_source` runs on the GUI thread; reading works in any thread."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.geometry import Box
from napari_bloodcell.images.files import SENSIBLE_UM_PER_PX
from napari_bloodcell.images.image import SlideImage
from napari_bloodcell.images.open import LARGE_PX, open_image, read_plane
from napari_bloodcell.images.plane import Plane

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Layer

PlaneIndex = tuple[int, ...]
"""Position along the leading axes of a stack; () if there is one plane only."""


@dataclass(frozen=True, eq=False)
class ImageSource:
    """The contents of an image layer at one moment."""

    data: Any  # full resolution, (…, Y, X), or (…, Y, X, channel) if `rgb`
    rgb: bool
    name: str
    pixel_size_um: float | None  # None if the layer has no units of length

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape without channels: leading axes, Y, X."""
        shape = tuple(int(n) for n in self.data.shape)
        return shape[:-1] if self.rgb else shape

    @property
    def stack_shape(self) -> tuple[int, ...]:
        """Lengths of the leading axes; () if there is one plane only."""
        return self.shape[:-2]

    @property
    def is_large(self) -> bool:
        """Whether this is one plane, too large to be read whole."""
        return is_large_plane(self.shape)

    def slide(self) -> SlideImage:
        """Return an image without leading axes as a slide, which is read lazily."""
        return replace(open_image(self.data, name=self.name), pixel_size_um=self.pixel_size_um).with_measured_values()

    def plane_indices(self) -> Iterator[PlaneIndex]:
        """Yield the index of every plane."""
        return itertools.product(*(range(n) for n in self.stack_shape))

    def plane(self, index: PlaneIndex = ()) -> Plane:
        """Read one plane as (Y, X, 3) uint8."""
        data = self.data[index] if index else self.data
        if not self.rgb:  # else a plane three pixels wide would be taken for RGB
            data = np.asarray(data)[..., None]
        plane = read_plane(data, name=self.name)
        return Plane(plane.data, self.pixel_size_um, self.name)


def is_large_plane(shape: tuple[int, ...]) -> bool:
    """Return whether a shape is that of one plane (Y, X) too large to be read whole."""
    return len(shape) == 2 and math.prod(shape) > LARGE_PX


def image_source(layer: Image) -> ImageSource:
    """Return what an image layer holds now; `ImageSource.plane` reads the pixels later.

    Raises `InputError` if the layer is not an image, or has fewer than two axes.
    """
    from napari.layers import Image as ImageLayer

    if not isinstance(layer, ImageLayer):
        raise InputError(f"{_described(layer)} is no image layer. Choose the layer that shows the smear.")
    data = layer.data[0] if layer.multiscale else layer.data
    source = ImageSource(data, bool(layer.rgb), layer.name, pixel_size_um(layer))
    if len(source.shape) < 2 or min(source.shape) == 0:
        raise InputError(f"The layer {layer.name!r} has no plane of pixels (shape {tuple(data.shape)}).")
    return source


def pixel_size_um(layer: Layer) -> float | None:
    """Return µm per pixel of a layer with units of length and square pixels of a plausible size, else None."""
    sizes = []
    for unit, scale in zip(layer.units[-2:], layer.scale[-2:], strict=True):
        if not unit.is_compatible_with("micrometer"):
            return None
        sizes.append(float((1.0 * unit).to("micrometer").magnitude * abs(scale)))
    low, high = SENSIBLE_UM_PER_PX
    is_square = max(sizes) <= 1.01 * min(sizes)
    return sum(sizes) / 2 if is_square and low <= min(sizes) and max(sizes) <= high else None


def current_plane(viewer: ViewerModel, layer: Layer) -> PlaneIndex:
    """Return the plane of a layer that the sliders show."""
    shape = _spatial_shape(layer)
    if len(shape) <= 2:
        return ()
    position = layer.world_to_data(viewer.dims.point)[-len(shape) :]
    return tuple(int(np.clip(round(float(p)), 0, n - 1)) for p, n in zip(position[:-2], shape[:-2], strict=True))


def visible_box(layer: Image) -> Box | None:
    """Return the part of a layer inside the window, (y0, x0, y1, x1) in pixels; None if nothing of it is drawn."""
    corners = np.asarray(layer.corner_pixels, float)[:, -2:]
    if layer.multiscale:
        corners = corners * np.asarray(layer.downsample_factors[layer.data_level])[-2:]
    height, width = _spatial_shape(layer)[-2:]
    y0, x0 = np.floor(np.clip(corners[0], 0, (height, width))).astype(int)
    y1, x1 = np.ceil(np.clip(corners[1] + 1, 0, (height, width))).astype(int)
    return (int(y0), int(x0), int(y1), int(x1)) if y1 - y0 > 1 and x1 - x0 > 1 else None


def channels_hint(source: ImageSource) -> str:
    """Return a hint if the planes of a stack may be the channels of one image, else ""."""
    if source.rgb or source.stack_shape not in ((3,), (4,)) or np.dtype(source.data.dtype) != np.uint8:
        return ""
    return (
        f"{source.name!r} is a stack of {source.stack_shape[0]} grey planes. If they are the colours of one image: "
        "right-click its layer, Split Stack, select the new layers, right-click, Merge to RGB."
    )


def plane_number(index: PlaneIndex, stack_shape: tuple[int, ...]) -> int:
    """Return the number of a plane in column `plane`: its position in the stack, counted from 0."""
    return int(np.ravel_multi_index(index, stack_shape)) if stack_shape else 0


def _spatial_shape(layer: Layer) -> tuple[int, ...]:
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    shape = tuple(int(n) for n in data.shape)
    return shape[:-1] if getattr(layer, "rgb", False) else shape


def _described(layer: Image | Labels | Layer | None) -> str:
    return "Nothing" if layer is None else f"The {type(layer).__name__} layer {getattr(layer, 'name', '')!r}"
