"""Writes a smear with its labels as OME-Zarr 0.5 (Zarr 3), and reads the labels back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_bloodcell.core.cells import type_colour
from napari_bloodcell.core.errors import READ_ERRORS, InputError, reason_of

if TYPE_CHECKING:
    import zarr
    from zarr.storage import LocalStore

CHUNK = 512
"""Side of a chunk, pixels."""
COARSEST = 1024
"""A pyramid gets levels until no side is longer than this, pixels."""
_VERSION = "0.5"


def write_ome_zarr(
    path: Path,
    *,
    image: NDArray[np.uint8],
    cells: NDArray[np.integer[Any]],
    types: NDArray[np.uint8],
    names: Sequence[str],
    name: str,
    pixel_size_um: float | None = None,
) -> None:
    """Write an image with the label images ``labels/cells`` and ``labels/types`` as pyramids into a new folder.

    `image` is (Y, X, 3) uint8, stored with its channels first as the format demands; `cells` (Y, X) are ids 1..N, and
    `types` (Y, X) 1 + the position in `names`.
    """
    create_smear(path, shape=(image.shape[0], image.shape[1]), names=names, name=name, pixel_size_um=pixel_size_um)
    for group, data, is_label in (
        ("", np.moveaxis(image, -1, 0), False),
        ("labels/cells", np.asarray(cells, np.int32), True),
        ("labels/types", np.asarray(types, np.uint8), True),
    ):
        for stored, level in zip(open_levels(path, group), halvings(data, is_label=is_label), strict=True):
            stored[...] = level


def create_smear(
    path: Path,
    *,
    shape: tuple[int, int],
    names: Sequence[str],
    name: str,
    pixel_size_um: float | None = None,
    with_image: bool = True,
) -> None:
    """Make an OME-Zarr of empty pyramids of `shape` (Y, X) with metadata: image, ``labels/cells``, ``labels/types``.

    The folder must not exist; without `with_image` there are labels only.
    """
    import zarr

    root = zarr.create_group(path, zarr_format=3)
    if with_image:
        window = {"start": 0, "end": 255, "min": 0, "max": 255}
        root.attrs["ome"] = {
            "version": _VERSION,
            "multiscales": _create_pyramid(root, (3, *shape), np.uint8, name, pixel_size_um, is_label=False),
            "omero": {
                "channels": [
                    {"label": label, "color": colour, "active": True, "window": window}
                    for label, colour in (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))
                ],
                "rdefs": {"model": "color"},
            },
        }
    labels = root.create_group("labels")
    labels.attrs["ome"] = {"version": _VERSION, "labels": ["cells", "types"]}
    group = labels.create_group("cells")
    pyramid = _create_pyramid(group, shape, np.int32, "cells", pixel_size_um, is_label=True)
    group.attrs["ome"] = {"version": _VERSION, "multiscales": pyramid, "image-label": label_metadata()}
    group = labels.create_group("types")
    pyramid = _create_pyramid(group, shape, np.uint8, "types", pixel_size_um, is_label=True)
    group.attrs["ome"] = {"version": _VERSION, "multiscales": pyramid, "image-label": label_metadata(names)}


def label_metadata(names: Sequence[str] = ()) -> dict[str, Any]:
    """Return the ``image-label`` metadata: colours and, for types, names.

    The format allows no empty list of colours, and some readers fail without one, so cells name the background's.
    """
    colours = [{"label-value": i + 1, "rgba": [*rgb(type_colour(n, names)), 255]} for i, n in enumerate(names)]
    properties = [{"label-value": i + 1, "name": n} for i, n in enumerate(names)]
    known = {"properties": properties} if names else {}
    return {"colors": colours or [{"label-value": 0, "rgba": [0, 0, 0, 0]}], **known, "source": {"image": "../../"}}


def open_levels(store: Path | LocalStore, group: str = "", mode: Literal["r", "r+"] = "r+") -> list[zarr.Array[Any]]:
    """Return the pyramid levels of a group of an OME-Zarr ("" for its image), finest first."""
    import zarr

    node: Any = zarr.open_group(store, path=group, mode=mode)
    return [node[dataset["path"]] for dataset in node.attrs["ome"]["multiscales"][0]["datasets"]]


def read_labels(path: Path) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Return cells (Y, X) int32 and types (Y, X) uint8 from `write_ome_zarr`; `InputError` if missing or damaged."""
    import zarr

    try:
        root: Any = zarr.open_group(path, mode="r")
        cells, types = (np.asarray(root[f"labels/{name}/0"][...]) for name in ("cells", "types"))
    except READ_ERRORS as error:
        raise InputError(f"The label images of {path} are missing or damaged: {reason_of(error)}.") from error
    return cells.astype(np.int32, copy=False), types.astype(np.uint8, copy=False)


def rgb(colour: str) -> tuple[int, int, int]:
    """Return "#rrggbb" as three numbers, 0 to 255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _create_pyramid(
    group: zarr.Group,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    name: str,
    pixel_size_um: float | None,
    *,
    is_label: bool,
) -> list[dict[str, Any]]:
    """Make the levels of a group and return their ``multiscales`` metadata."""
    axes: list[dict[str, str]] = [{"name": a, "type": "space"} for a in "yx"]
    if pixel_size_um is not None:
        axes = [{**axis, "unit": "micrometer"} for axis in axes]
    extra = len(shape) - 2
    axes = [{"name": "c", "type": "channel"}] * extra + axes
    from zarr.codecs import BytesCodec, ZstdCodec

    datasets = []
    for level, plane in enumerate(level_shapes(shape[-2:])):
        group.create_array(
            str(level),
            shape=(*shape[:-2], *plane),
            chunks=(*shape[:-2], *(min(CHUNK, side) for side in plane)),
            dtype=np.dtype(dtype),
            serializer=BytesCodec(endian="little"),
            compressors=ZstdCodec(level=1),
            dimension_names=[axis["name"] for axis in axes],
        )
        step, pixel = 2.0**level, pixel_size_um or 1.0
        transformations: list[dict[str, Any]] = [{"type": "scale", "scale": [1.0] * extra + [step * pixel] * 2}]
        if level and not is_label:  # a mean lies between its pixels, a picked pixel does not move
            shift = (step - 1) / 2 * pixel
            transformations.append({"type": "translation", "translation": [0.0] * extra + [shift] * 2})
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    how = "nearest" if is_label else "mean"
    return [{"name": name, "axes": axes, "datasets": datasets, "type": how}]


def level_shapes(shape: Sequence[int]) -> list[tuple[int, int]]:
    """Return the shape (Y, X) of every pyramid level, finest first."""
    height, width = int(shape[0]), int(shape[1])
    shapes = [(height, width)]
    while max(shapes[-1]) > COARSEST:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def halvings(data: NDArray[Any], n: int | None = None, *, is_label: bool) -> Iterator[NDArray[Any]]:
    """Yield an array (…, Y, X) and its halvings: means for an image, every second pixel for labels.

    `n` is the number of arrays; None: as many as its pyramid has levels.
    """
    for level in range(len(level_shapes(data.shape[-2:])) if n is None else n):
        if level:
            data = data[..., ::2, ::2] if is_label else _halve(data)
        yield data


def _halve(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = data.shape[-2:]
    if height % 2 or width % 2:
        data = np.pad(data, [(0, 0)] * (data.ndim - 2) + [(0, height % 2), (0, width % 2)], mode="edge")
    total = data[..., ::2, ::2].astype(np.uint16)
    total += data[..., 1::2, ::2]
    total += data[..., ::2, 1::2]
    total += data[..., 1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)
