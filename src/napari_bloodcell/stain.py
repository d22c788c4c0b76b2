"""How a cell takes up the stain, measured against the red cells around it.

Azure dyes colour nuclei blue to purple: they absorb red light, which haemoglobin and eosin let pass. How much more red
light than the smear's own red cells a cell absorbs tells white cells in any stain that shows nuclei at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

FEWEST_RED_CELLS = 10
"""With fewer red cells there is nothing to compare with."""
LEAST_DENSITY = 0.05
"""Optical density below which red cells are too pale to compare with."""


def darkest_red(image: NDArray[np.uint8], cells: NDArray[np.integer], table: pd.DataFrame) -> NDArray[np.float64]:
    """Return the red level, 0 to 255, that the darkest quarter of each cell does not exceed.

    Parameters
    ----------
    image : ndarray of uint8, shape (Y, X, 3)
        The smear, or a part of it.
    cells : ndarray of int, shape (Y, X)
        Label image of it.
    table : DataFrame
        Rows of the cell table; `bbox` is used, the index is the label id.

    Returns
    -------
    ndarray of float64, shape (N,)
        NaN for a cell without pixels.
    """
    quartile = np.full(len(table), np.nan)
    for k, (label, (y0, x0, y1, x1)) in enumerate(zip(table.index, table["bbox"], strict=True)):
        red = image[y0:y1, x0:x1, 0][cells[y0:y1, x0:x1] == label]
        if red.size:
            quartile[k] = np.partition(red, red.size // 4)[red.size // 4]
    return quartile


def nuclear_stain(
    red_level: NDArray[np.float64], is_red: NDArray[np.bool_], background_rgb: tuple[float, float, float]
) -> NDArray[np.float64]:
    """Return how much more red light each cell absorbs than red cells of the same smear do.

    Parameters
    ----------
    red_level : ndarray of float64, shape (N,)
        What `darkest_red` found in all cells of the smear.
    is_red : ndarray of bool, shape (N,)
        Which of them are taken to be red cells.
    background_rgb : tuple of float
        Colour of the empty glass, 0 to 255.

    Returns
    -------
    ndarray of float64, shape (N,)
        Optical density in the red channel that the darkest quarter of the cell exceeds, by the median of that of the
        red cells; NaN where there are fewer than `FEWEST_RED_CELLS`.
    """
    if is_red.sum() < FEWEST_RED_CELLS:
        return np.full(len(red_level), np.nan)
    density = -np.log(np.maximum(red_level, 4.0) / max(background_rgb[0], 5.0))
    return np.asarray(density / max(float(np.nanmedian(density[is_red])), LEAST_DENSITY), np.float64)
