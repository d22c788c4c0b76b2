from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

import napari_bloodcell as nb
from tests.fakes import ThresholdGenerator, disc_image

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


@dataclass
class SlowGenerator(ThresholdGenerator):
    """Takes its time for each tile, and once ends its process on one of them, where a file says that it has not yet."""

    seconds: float = 0.0
    deadly_once: str | None = None

    def generate(self, *args: Any, **options: Any) -> Any:
        time.sleep(self.seconds)
        if self.deadly_once is not None and not Path(self.deadly_once).exists():
            Path(self.deadly_once).touch()
            os._exit(9)
        return super().generate(*args, **options)


def same(a: nb.SlideResult, b: nb.SlideResult) -> bool:
    """Whether two results are the same in pixels, tables and counts."""
    pd.testing.assert_frame_equal(a.table, b.table)
    pixels = np.array_equal(a.cells[...], b.cells[...]) and np.array_equal(a.types[...], b.types[...])
    return pixels and a.counts == b.counts and a.image_sha256 == b.image_sha256
