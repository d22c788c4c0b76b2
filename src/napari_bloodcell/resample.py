"""Resampling to the working scale on one grid for the whole smear, so that every tile sees the same pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def resampling_matrix(first: int, n_out: int, scale: float, offset: int, n_in: int) -> NDArray[np.float32]:
    """Return the weights (n_out, n_in) float32 that resample one axis by a triangle filter.

    Parameters
    ----------
    first : int
        Index of the first output element on the smear's resampled axis.
    n_out, n_in : int
        Elements wanted, elements given.
    scale : float
        Output elements per input element.
    offset : int
        Index of the first input element on the smear's axis.

    Notes
    -----
    Output element k is centred on input (k + 0.5) / scale - 0.5. The filter is as wide as an output element where the
    image shrinks, so nothing aliases. Rows whose centre lies outside the given elements are zero.
    """
    centre = (np.arange(first, first + n_out) + 0.5) / scale - 0.5
    position = np.arange(offset, offset + n_in)
    reach = max(1.0, 1.0 / scale)
    weights = np.clip(1.0 - np.abs(position[None, :] - centre[:, None]) / reach, 0.0, None)
    weights[(centre < offset - 0.5) | (centre > offset + n_in - 0.5)] = 0.0
    total = weights.sum(1, keepdims=True)
    return np.asarray(np.divide(weights, total, out=np.zeros_like(weights), where=total > 0), np.float32)


def resample(
    image: NDArray[np.uint8], scale: float, *, origin: tuple[int, int] = (0, 0), align: int = 1, multiple: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.bool_], tuple[int, int]]:
    """Resample a (Y, X, 3) part of a smear that lies at `origin` (y, x).

    Parameters
    ----------
    image : ndarray of uint8, shape (Y, X, 3)
        The part.
    scale : float
        Resampled pixels per pixel.
    origin : tuple of int
        (y, x) of the part in the smear, pixels.
    align : int
        The corner of the result is a multiple of this on the resampled smear.
    multiple : int
        So are, of this, its height and width: few different shapes let a network reuse its plans.

    Returns
    -------
    resampled : ndarray of float32, shape (H, W, 3)
        0 to 255.
    inside : ndarray of bool, shape (H, W)
        Where the part has pixels; elsewhere `resampled` is 0.
    corner : tuple of int
        (y, x) of its first pixel on the resampled smear.
    """
    axes = []
    corner = []
    for offset, n_in in zip(origin, image.shape[:2], strict=True):
        first = int(np.floor(offset * scale / align)) * align
        last = int(np.ceil((offset + n_in) * scale))
        size = max(1, int(np.ceil((last - first) / multiple))) * multiple
        axes.append(resampling_matrix(first, size, scale, offset, n_in))
        corner.append(first)
    rows, columns = axes
    part = image.astype(np.float32).reshape(image.shape[0], -1)
    tall = (rows @ part).reshape(rows.shape[0], image.shape[1], 3)
    resampled = np.matmul(columns, tall)
    inside = np.logical_and.outer(np.any(rows, axis=1), np.any(columns, axis=1))
    return resampled, inside, (corner[0], corner[1])
