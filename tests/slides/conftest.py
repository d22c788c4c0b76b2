from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import napari_bloodcell as nb
from tests.fakes import disc_image

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 256 pixels, so that a small image has many."""
    monkeypatch.setattr("napari_bloodcell.slides.run.BLOCK_PX", 256)


def random_discs(shape: tuple[int, int], n: int, seed: int = 0) -> NDArray[np.uint8]:
    """Red and a few dark discs on bright glass, some of which touch, and a corner of empty glass."""
    rng = np.random.default_rng(seed)
    places = [(y, x) for y, x in rng.uniform(0, shape, (n, 2)) if y < 0.7 * shape[0] or x < 0.6 * shape[1]]
    pale = disc_image(places[: -n // 10], shape, radius=11)
    return np.minimum(pale, disc_image(places[-n // 10 :], shape, radius=15, value=40))


def settings(**segment: object) -> nb.Recipe:
    values = {"rbc_diameter_px": 24.0, "tile_size": 160, **segment}
    return nb.Recipe(segment=nb.SegmentParams(**values))  # type: ignore[arg-type]
