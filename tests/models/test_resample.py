from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from napari_bloodcell.models.embedded.sam import resample


@given(st.floats(0.2, 3.0), st.integers(0, 500), st.integers(1, 60))
def test_one_grey_stays_that_grey_wherever_there_are_pixels(scale: float, offset: int, n: int) -> None:
    canvas, inside, _ = resample(np.full((n, n, 3), 77, np.uint8), scale, origin=(offset, 2 * offset))
    assert inside.any()
    assert np.allclose(canvas[inside], 77, atol=1e-3)
    assert not canvas[~inside].any()


def test_a_ramp_keeps_its_place() -> None:
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 3, 2).repeat(40, 0)
    canvas, inside, corner = resample(ramp, 0.5, origin=(0, 30), align=16)
    columns = np.flatnonzero(inside.any(0))[2:-2]
    expected = (columns + corner[1] + 0.5) / 0.5 - 0.5 - 30
    assert np.allclose(canvas[10, columns, 0], expected, atol=1)


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
