"""Draws a few cells of a derived layer again in place, instead of all that is in view: napari's own way of painting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from napari.layers import Labels
    from numpy.typing import NDArray


def redraw_boxes(layer: Labels, boxes: NDArray[np.int64]) -> bool:
    """Read boxes of a layer's data again and show them, without reading the rest.

    Parameters
    ----------
    layer : Labels
        Its data are derived, of one byte a pixel: what is read is a copy that belongs to nobody else.
    boxes : ndarray of int64, shape (N, 4)
        (y0, x0, y1, x1), half-open, pixels of the finest level.

    Returns
    -------
    bool
        Whether that was possible; if not, the layer is as it was, and must be refreshed.
    """
    if not layer.visible:
        if layer.multiscale:
            layer._reset_thumbnail_level_data()  # it is read again when the layer is shown
        return True
    shown = layer._slice.image
    if (
        layer.ndim != 2
        or layer._slice_input.order != (0, 1)
        or layer._slice_input.ndisplay != 2
        or layer.contour
        or not layer.loaded
        or shown.raw.dtype != np.uint8
        or not shown.raw.flags.writeable
    ):
        return False
    if not len(boxes):
        return True
    levels: list[Any] = list(layer.data) if layer.multiscale else [layer.data]
    tile = layer._transforms["tile2data"]
    steps = np.asarray(layer.downsample_factors)[:, -1] if layer.multiscale else np.ones(1)
    level = int(np.abs(steps - tile.scale[-1]).argmin())  # a locked level is not `data_level`
    corner = np.rint(tile.translate / tile.scale).astype(np.int64)
    window = _read_again(levels[level], shown.raw, boxes, np.asarray(tile.scale), corner)
    if layer.multiscale:
        _renew_coarsest(layer, levels[-1], boxes, same=level == len(levels) - 1)
    if window is not None:
        if not np.shares_memory(shown.view, shown.raw):
            shown.view[window] = layer.colormap._data_to_texture(shown.raw[window])
        layer.events.labels_update(data=shown.view[window], offset=[part.start for part in window])
        layer._update_thumbnail()
    return True


def _renew_coarsest(layer: Labels, coarsest: Any, boxes: NDArray[np.int64], *, same: bool) -> None:
    """Bring the copy of the coarsest level, which napari keeps for thumbnails, up to date."""
    if layer._level_materializer is None:
        return
    kept = layer._level_materializer(layer._thumbnail_level)
    if same and np.shares_memory(kept, layer._slice.image.raw):
        return
    factor = np.asarray(layer.downsample_factors[layer._thumbnail_level], np.float64)
    _read_again(coarsest, kept, boxes, factor, np.zeros(2, np.int64))


def _read_again(
    source: Any,
    copy: NDArray[np.uint8],
    boxes: NDArray[np.int64],
    factor: NDArray[np.float64],
    corner: NDArray[np.int64],
) -> tuple[slice, slice] | None:
    """Read the smallest window around the boxes that lie in `copy`, the part of `source` at `corner`, into it.

    Returns where in the copy that is, or None if no box lies there.
    """
    low = np.floor(boxes[:, :2] / factor).astype(np.int64) - 1 - corner
    high = np.ceil(boxes[:, 2:] / factor).astype(np.int64) + 1 - corner
    low, high = np.maximum(low, 0), np.minimum(high, copy.shape)
    inside = (low < high).all(axis=1)
    if not inside.any():
        return None
    (y0, x0), (y1, x1) = low[inside].min(0), high[inside].max(0)
    window = slice(int(y0), int(y1)), slice(int(x0), int(x1))
    place = tuple(slice(part.start + int(c), part.stop + int(c)) for part, c in zip(window, corner, strict=True))
    copy[window] = np.asarray(source[place])
    return window
