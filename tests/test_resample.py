from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from napari_bloodcell.resample import resample, resampling_matrix


@given(st.floats(0.2, 3.0), st.integers(0, 500), st.integers(1, 60))
def test_rows_of_the_matrix_sum_to_one_where_there_are_pixels(scale: float, offset: int, n_in: int) -> None:
    first = int(np.floor(offset * scale))
    last = int(np.ceil((offset + n_in) * scale))
    total = resampling_matrix(first, last - first + 1, scale, offset, n_in).sum(1)
    assert np.all(np.isclose(total, 1, atol=1e-4) | (total == 0))


@given(st.floats(0.3, 2.0), st.integers(0, 40), st.integers(0, 40), st.integers(0, 2**31))
def test_a_part_is_resampled_as_the_whole_is(scale: float, y0: int, x0: int, seed: int) -> None:
    whole = np.random.default_rng(seed).integers(0, 256, (120, 110, 3), dtype=np.uint8)
    full, _, full_corner = resample(whole, scale, align=16, multiple=16)
    part, inside, corner = resample(whole[y0 : y0 + 70, x0 : x0 + 65], scale, origin=(y0, x0), align=16, multiple=16)
    margin = int(np.ceil(2 * max(scale, 1))) + 1
    deep = np.zeros_like(inside)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    deep[rows[0] + margin : rows[-1] - margin, columns[0] + margin : columns[-1] - margin] = True
    ys, xs = np.nonzero(deep)
    expected = full[ys + corner[0] - full_corner[0], xs + corner[1] - full_corner[1]]
    assert np.allclose(part[ys, xs], expected, atol=1e-2)


def test_the_canvas_lies_on_the_grid_and_is_a_multiple_of_it() -> None:
    canvas, inside, corner = resample(np.full((50, 70, 3), 9, np.uint8), 0.8, origin=(123, 77), align=16, multiple=16)
    assert all(v % 16 == 0 for v in (*canvas.shape[:2], *corner))
    assert np.allclose(canvas[inside], 9)
    assert not canvas[~inside].any()
