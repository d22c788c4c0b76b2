"""Image layers as planes for the engine: what is read is fixed on the GUI thread, reading may happen anywhere."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.images.files import SENSIBLE_UM_PER_PX
from napari_bloodcell.images.open import LARGE_PX, open_image, read_plane
from napari_bloodcell.images.plane import Plane

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Layer

    from napari_bloodcell.images.image import SlideImage

PlaneIndex = tuple[int, ...]
"""Position along the leading axes of a stack; () where there is one plane only."""


@dataclass(frozen=True, eq=False)
class ImageSource:
    """What an image layer held at one moment.

    Attributes
    ----------
    data : array-like
        Full resolution, (…, Y, X) or (…, Y, X, channel) where `rgb`.
    rgb : bool
        Whether the last axis is colour.
    name : str
        The layer's name.
    pixel_size_um : float or None
        Micrometres per pixel, where the layer has physical units.
    """

    data: Any
    rgb: bool
    name: str
    pixel_size_um: float | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape without colours: leading axes, Y, X."""
        shape = tuple(int(n) for n in self.data.shape)
        return shape[:-1] if self.rgb else shape

    @property
    def stack_shape(self) -> tuple[int, ...]:
        """Lengths of the leading axes; () where there is one plane only."""
        return self.shape[:-2]

    @property
    def is_large(self) -> bool:
        """Whether this is one plane that is too large to be read whole."""
        return is_large_plane(self.shape)

    def slide(self) -> SlideImage:
        """Return an image without leading axes as a slide, which is read where it is sliced.

        Raises
        ------
        InputError
            If its pixels cannot be read as an image.
        """
        return replace(open_image(self.data, name=self.name), pixel_size_um=self.pixel_size_um).with_measured_values()

    def plane_indices(self) -> Iterator[PlaneIndex]:
        """Yield the position of every plane."""
        return itertools.product(*(range(n) for n in self.stack_shape))

    def plane(self, index: PlaneIndex = ()) -> Plane:
        """Read one plane as (Y, X, 3) uint8.

        Raises
        ------
        InputError
            If its pixels cannot be read as an image.
        """
        data = self.data[index] if index else self.data
        if not self.rgb:  # so that a plane three pixels wide is not taken for colours
            data = np.asarray(data)[..., None]
        plane = read_plane(data, name=self.name)
        return Plane(plane.data, self.pixel_size_um, self.name)


def is_large_plane(shape: tuple[int, ...]) -> bool:
    """Return whether this is the shape of one plane, (Y, X), that is too large to be read whole."""
    return len(shape) == 2 and math.prod(shape) > LARGE_PX


def image_source(layer: Image) -> ImageSource:
    """Return what an image layer holds now; pixels are read later, by `ImageSource.plane`.

    Raises
    ------
    InputError
        If the layer is not an image, or has fewer than two axes.
    """
    from napari.layers import Image as ImageLayer

    if not isinstance(layer, ImageLayer):
        raise InputError(f"{_described(layer)} is no image layer. Choose the layer that shows the smear.")
    data = layer.data[0] if layer.multiscale else layer.data
    source = ImageSource(data, bool(layer.rgb), layer.name, pixel_size_um(layer))
    if len(source.shape) < 2 or min(source.shape) == 0:
        raise InputError(f"The layer {layer.name!r} has no plane of pixels (shape {tuple(data.shape)}).")
    return source


def image_plane(layer: Image, index: PlaneIndex = ()) -> Any:
    """Return one plane of an image layer, (Y, X, 3) uint8, read here and now."""
    return image_source(layer).plane(index).data


def pixel_size_um(layer: Layer) -> float | None:
    """Return µm per pixel along Y and X where a layer has units of length and square pixels of a sensible size."""
    sizes = []
    for unit, scale in zip(layer.units[-2:], layer.scale[-2:], strict=True):
        if not unit.is_compatible_with("micrometer"):
            return None
        sizes.append(float((1.0 * unit).to("micrometer").magnitude * abs(scale)))
    low, high = SENSIBLE_UM_PER_PX
    is_square = max(sizes) <= 1.01 * min(sizes)
    return sum(sizes) / 2 if is_square and low <= min(sizes) and max(sizes) <= high else None


def current_plane(viewer: ViewerModel, layer: Layer) -> PlaneIndex:
    """Return which plane of a layer the sliders show."""
    shape = _spatial_shape(layer)
    if len(shape) <= 2:
        return ()
    position = layer.world_to_data(viewer.dims.point)[-len(shape) :]
    return tuple(int(np.clip(round(float(p)), 0, n - 1)) for p, n in zip(position[:-2], shape[:-2], strict=True))


def visible_box(layer: Image) -> tuple[int, int, int, int] | None:
    """Return what of a layer lies in the window, (y0, x0, y1, x1) in pixels; None where nothing is drawn."""
    corners = np.asarray(layer.corner_pixels, float)[:, -2:]
    if layer.multiscale:
        corners = corners * np.asarray(layer.downsample_factors[layer.data_level])[-2:]
    height, width = _spatial_shape(layer)[-2:]
    y0, x0 = np.floor(np.clip(corners[0], 0, (height, width))).astype(int)
    y1, x1 = np.ceil(np.clip(corners[1] + 1, 0, (height, width))).astype(int)
    return (int(y0), int(x0), int(y1), int(x1)) if y1 - y0 > 1 and x1 - x0 > 1 else None


def told_of_colours(source: ImageSource) -> str:
    """Return a hint where the planes of a stack may be the colours of one image; "" where not."""
    if source.rgb or source.stack_shape not in ((3,), (4,)) or np.dtype(source.data.dtype) != np.uint8:
        return ""
    return (
        f"{source.name!r} is a stack of {source.stack_shape[0]} grey planes. If they are the colours of one image: "
        "right-click its layer, Split Stack, select the new layers, right-click, Merge to RGB."
    )


def plane_number(index: PlaneIndex, stack_shape: tuple[int, ...]) -> int:
    """Return the number of a plane in the column `plane`: its position in the stack, counted from 0."""
    return int(np.ravel_multi_index(index, stack_shape)) if stack_shape else 0


def _spatial_shape(layer: Layer) -> tuple[int, ...]:
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    shape = tuple(int(n) for n in data.shape)
    return shape[:-1] if getattr(layer, "rgb", False) else shape


def _described(layer: Image | Labels | Layer | None) -> str:
    return "Nothing" if layer is None else f"The {type(layer).__name__} layer {getattr(layer, 'name', '')!r}"
