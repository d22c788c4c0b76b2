"""Speed as ratios of times taken in turn in one run, so that a slow or busy machine slows both sides.

The figures themselves come from `benchmarks/speed.py`; these bars are looser by what a shared machine varies, and
catch what makes a part of the program several times as slow.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import napari_bloodcell as nb
from benchmarks.classical import classical_cells, measure
from benchmarks.speed import NetworkClock
from napari_bloodcell.models.device import fast_bf16
from napari_bloodcell.models.embedded.sam import EmbeddedSam
from napari_bloodcell.models.load import load_classifier, load_generator

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

pytestmark = [
    pytest.mark.alone,
    pytest.mark.slow,
    pytest.mark.usefixtures("one_torch_thread"),
]  # a core for either side

DIAMETER_PX = 34.0
PARAMS = nb.SegmentParams(rbc_diameter_px=DIAMETER_PX)


@pytest.fixture(scope="module")
def smear() -> NDArray[np.uint8]:
    path = Path(nb.__file__).parent / "data/smear.jpg"
    return np.asarray(Image.open(path).convert("RGB"))[:1024, :1024]


@pytest.fixture(scope="module")
def sam() -> EmbeddedSam:
    generator = load_generator("embedded")
    assert isinstance(generator, EmbeddedSam)
    return generator


def least_seconds(*functions: Callable[[], Any], rounds: int = 4) -> list[float]:
    """The least time of each function, called in turn; the first round only warms up."""
    seconds = [[float("inf")] for _ in functions]
    for turn in range(rounds):
        for own, function in zip(seconds, functions, strict=True):
            begin = time.perf_counter()
            function()
            if turn:
                own.append(time.perf_counter() - begin)
    return [min(own) for own in seconds]


@pytest.mark.skipif(not fast_bf16("cpu"), reason="the bar is for processors that multiply bfloat16 in hardware")
def test_segmenting_takes_little_more_than_the_classical_way(smear: NDArray[np.uint8], sam: EmbeddedSam) -> None:
    patches = [smear[y : y + 512, x : x + 512] for y in (0, 512) for x in (0, 512)]
    ours, theirs = least_seconds(
        lambda: nb.segment(smear, params=PARAMS, generator=sam),
        lambda: [measure(classical_cells(patch, DIAMETER_PX)) for patch in patches],
    )
    assert ours < 6 * theirs  # 3 where nothing else runs, and less on two cores


def test_most_of_the_time_is_that_of_the_networks(smear: NDArray[np.uint8], sam: EmbeddedSam) -> None:
    classifier = load_classifier()
    clock = NetworkClock()
    try:
        nb.analyse(smear, generator=sam, classifier=classifier)
        clock.watch_models(sam, classifier)
        begin = time.perf_counter()
        nb.analyse(smear, generator=sam, classifier=classifier)
        share = clock.seconds / (time.perf_counter() - begin)
    finally:
        clock.stop()
    assert share > 0.45  # 0.6 and more where nothing else runs


def test_tiles_looked_at_together_are_quicker(
    smear: NDArray[np.uint8], sam: EmbeddedSam, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_by_one() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(EmbeddedSam, "look_px", lambda *_: 0)
            nb.segment(smear, params=small, generator=sam)

    small = PARAMS.model_copy(update={"tile_size": 256})
    together, alone = least_seconds(lambda: nb.segment(smear, params=small, generator=sam), one_by_one, rounds=3)
    assert together < 0.8 * alone


def test_counting_takes_time_in_proportion_to_the_cells() -> None:
    rng = np.random.default_rng(0)
    area = rng.normal(900, 90, 1_000_000).clip(100)
    table = pd.DataFrame({"cell_type": "RBC", "area_px": area, "touches_edge": False})
    many, few = least_seconds(lambda: nb.count(table), lambda: nb.count(table[:200_000]))
    assert many < 12 * few


def test_the_help_comes_soon() -> None:
    def run(*code: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, *code], check=True, capture_output=True)

    ours, numpy = least_seconds(run("-m", "napari_bloodcell", "--help"), run("-c", "import numpy"))
    assert ours < 4 * numpy
