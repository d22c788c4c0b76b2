from __future__ import annotations

import numpy as np
import pytest

from napari_bloodcell.cells import measure_cells
from napari_bloodcell.stain import darkest_red, nuclear_stain

GLASS = (230.0, 230.0, 230.0)


def smear(n_red: int) -> tuple[np.ndarray, np.ndarray]:
    """A row of red cells that pass red light, and one purple cell that does not."""
    cells = np.zeros((20, 20 * (n_red + 1)), np.int32)
    image = np.full((*cells.shape, 3), 230, np.uint8)
    for k in range(n_red + 1):
        part = (slice(4, 16), slice(20 * k + 4, 20 * k + 16))
        cells[part] = k + 1
        image[part] = (200, 120, 120) if k < n_red else (90, 60, 150)
    return image, cells


def test_a_nucleus_absorbs_more_red_light_than_red_cells() -> None:
    image, cells = smear(12)
    table = measure_cells(cells)
    stain = nuclear_stain(darkest_red(image, cells, table), np.arange(13) < 12, GLASS)
    assert stain[:12] == pytest.approx(np.ones(12))
    assert stain[12] > 4


def test_with_few_red_cells_nothing_is_said() -> None:
    image, cells = smear(5)
    stain = nuclear_stain(darkest_red(image, cells, measure_cells(cells)), np.arange(6) < 5, GLASS)
    assert np.isnan(stain).all()
