"""The same recipe gives the same table, byte for byte, with any number of threads and of workers."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from napari_bloodcell.core.params import SegmentParams
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.models.load import load_classifier, load_generator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

pytestmark = pytest.mark.network


def analysed(folder: Path, name: str, *flags: str, threads: int) -> bytes:
    """Return ``cells.csv`` of the smear in a folder, from a process of its own with the program's own models."""
    command = [sys.executable, "-m", "napari_bloodcell", "analyse", "smear.png", "-o", name, "-q", "--tile-size", "256"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command += ["--no-overlay", "--no-kde", *flags]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return (folder / name / "smear" / "cells.csv").read_bytes()


@pytest.mark.slow
def test_threads_and_workers_do_not_change_a_byte_of_the_table(
    tmp_path: Path, shipped: tuple[NDArray[np.uint8], object]
) -> None:
    Image.fromarray(shipped[0][:500, :600]).save(tmp_path / "smear.png")
    one = analysed(tmp_path, "one", threads=1)
    assert one.count(b"\n") > 20
    assert analysed(tmp_path, "two threads", threads=2) == one
    assert analysed(tmp_path, "two workers", "--workers", "2", threads=1) == one


@pytest.fixture
def torch_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_threads_do_not_change_a_bit_of_a_mask(
    shipped: tuple[NDArray[np.uint8], object], torch_threads: Callable[[int], None]
) -> None:
    sam, calibration = load_generator("embedded", "cpu"), Calibration(34.0, (224.0, 229.0, 237.0), 203.0, "given")

    def found(threads: int, at_once: int = 32) -> list[tuple[object, ...]]:
        torch_threads(threads)
        masks = sam.generate(shipped[0][:300, :400], calibration, SegmentParams(points_per_batch=at_once))
        return [(m.bbox, m.mask.tobytes(), m.score, m.predicted_iou, m.stability_score, m.point) for m in masks]

    alone = found(1)
    assert len(alone) > 30
    for threads in (2, 3, 8):
        assert found(threads) == alone
    assert set(found(1, at_once=8)) == set(alone)


def test_neither_threads_nor_company_change_a_bit_of_a_probability(torch_threads: Callable[[int], None]) -> None:
    rng = np.random.default_rng(0)
    cutouts = np.zeros((40, 128, 128, 3), np.uint8)
    for cutout in cutouts:
        r = int(rng.integers(6, 40))
        cutout[64 - r : 64 + r, 64 - r : 64 + r] = rng.integers(1, 256, (2 * r, 2 * r, 3))
    classifier = load_classifier("embedded", "cpu")
    torch_threads(1)
    alone = classifier.predict(cutouts)
    for threads in (1, 2, 3, 8):
        torch_threads(threads)
        np.testing.assert_array_equal(classifier.predict(cutouts), alone)
        for begin, n in ((0, 1), (3, 1), (5, 2), (9, 3), (20, 15)):
            np.testing.assert_array_equal(classifier.predict(cutouts[begin : begin + n]), alone[begin : begin + n])
