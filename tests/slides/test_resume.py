"""A run that is stopped, killed, or short of disk goes on where it was, and comes to the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import napari_bloodcell as nb
from napari_bloodcell.cli import batch
from napari_bloodcell.cli import main as cli
from napari_bloodcell.core.errors import OutputError
from napari_bloodcell.core.progress import drain
from napari_bloodcell.slides import work as work_files
from napari_bloodcell.slides.run import iter_analyse_slide
from tests.fakes import BrightnessClassifier, ThresholdGenerator
from tests.slides.conftest import random_discs, same, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

pytestmark = pytest.mark.usefixtures("small_blocks")
SHAPE = (500, 470)
N_TILES = 12


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return random_discs(SHAPE, 110, seed=3)


def run(image: Any, output: Path, generator: ThresholdGenerator | None = None, **options: Any) -> nb.SlideResult:
    models = {"generator": generator or ThresholdGenerator(), "classifier": BrightnessClassifier()}
    return drain(iter_analyse_slide(image, output, **{"recipe": settings(), **models, **options}))


@pytest.fixture
def uninterrupted(image: NDArray[np.uint8], tmp_path: Path) -> nb.SlideResult:
    return run(image, tmp_path / "uninterrupted")


@pytest.mark.parametrize("steps", [1, 7, 15, 21])
@pytest.mark.parametrize("overlap", [None, 0])
def test_what_was_stopped_goes_on(
    steps: int, overlap: int | None, image: NDArray[np.uint8], uninterrupted: nb.SlideResult, tmp_path: Path
) -> None:
    recipe = settings(tile_overlap=overlap)
    work = iter_analyse_slide(
        image, tmp_path / "a", recipe=recipe, generator=ThresholdGenerator(), classifier=BrightnessClassifier()
    )
    for _ in range(steps):
        next(work)
    work.close()
    generator = ThresholdGenerator()
    result = run(image, tmp_path / "a", generator, recipe=recipe)
    assert generator.calls <= N_TILES - min(steps - 4, N_TILES)
    expected = uninterrupted if overlap is None else run(image, tmp_path / "b", recipe=recipe)
    assert same(result, expected)
    assert not (tmp_path / "a" / "work").exists()


def test_a_run_that_is_killed_goes_on(image: NDArray[np.uint8], uninterrupted: nb.SlideResult, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "image.zarr", data=image, chunks=(128, 128, 3))
    output = tmp_path / "killed"
    code = (
        "from tests.slides.test_resume import *; from tests.slides.conftest import SlowGenerator\n"
        "import napari_bloodcell.slides.run as r; r.BLOCK_PX = 256\n"
        f"run({str(tmp_path / 'image.zarr')!r}, Path({str(output)!r}), SlowGenerator(seconds=0.3))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    done: list[Path] = []
    deadline = time.monotonic() + 300
    while len(done) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
        done = list((output / "work" / "tiles").glob("*/*.npz"))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    generator = ThresholdGenerator()
    result = run(str(tmp_path / "image.zarr"), output, generator)
    assert 0 < generator.calls <= N_TILES - 5
    assert np.array_equal(result.cells[...], uninterrupted.cells[...])
    assert result.counts == uninterrupted.counts


def test_what_a_killed_run_left_half_written_is_removed(image: NDArray[np.uint8], tmp_path: Path) -> None:
    work = iter_analyse_slide(
        image, tmp_path / "a", recipe=settings(), generator=ThresholdGenerator(), classifier=BrightnessClassifier()
    )
    for _ in range(9):
        next(work)
    work.close()
    chunks = tmp_path / "a" / "smear.ome.zarr" / "0"
    (tmp_path / "a" / ".writing-stage" / "cells").mkdir(parents=True)
    (chunks / ".writing-1").write_bytes(b"half a file")
    (chunks / f"0.{'a' * 32}.partial").write_bytes(b"half a chunk")
    run(image, tmp_path / "a")
    assert not [*(tmp_path / "a").rglob(".writing-*"), *chunks.glob("*.partial")]
    assert (chunks / "zarr.json").is_file()
    (tmp_path / "a" / "work" / "tiles").mkdir(parents=True)  # killed when all was written
    run(image, tmp_path / "a")
    assert not (tmp_path / "a" / "work").exists()


def test_what_is_complete_is_opened_and_not_done_again(
    image: NDArray[np.uint8], uninterrupted: nb.SlideResult, tmp_path: Path
) -> None:
    generator = ThresholdGenerator()
    assert same(run(image, tmp_path / "uninterrupted", generator), uninterrupted)
    assert generator.calls == 0


@pytest.mark.usefixtures("uninterrupted")
def test_other_settings_or_pixels_begin_anew(image: NDArray[np.uint8], tmp_path: Path) -> None:
    generator = ThresholdGenerator()
    other = settings(tile_size=200)
    result = run(image, tmp_path / "uninterrupted", generator, recipe=other)
    assert generator.calls > 0
    assert result.recipe == other
    n_cells = len(result.table)
    changed = image.copy()
    changed[:100] = 230
    fewer = run(changed, tmp_path / "uninterrupted")
    assert len(fewer.table) < n_cells


def test_another_way_to_count_finds_no_cells_again(image: NDArray[np.uint8], tmp_path: Path) -> None:
    broken = ThresholdGenerator(fails_on=(0, 112))
    run(image, tmp_path, broken)
    generator = ThresholdGenerator()
    recipe = settings().model_copy(update={"count": nb.CountParams(rule="none")})
    result = run(image, tmp_path, generator, recipe=recipe)
    assert generator.calls == 1
    assert result.counting.rule == "none"


@pytest.mark.parametrize("overlap", [None, 0])
def test_a_tile_that_fails_is_listed_and_done_by_the_next_run(
    overlap: int | None, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    recipe = settings(tile_overlap=overlap)
    where = (0, 112) if overlap is None else (0, 160)
    result = run(image, tmp_path / "a", ThresholdGenerator(fails_on=where), recipe=recipe)
    assert [tile.name for tile in result.failed_tiles] == ["r00_c01"]
    assert "out of memory" in result.failed_tiles[0].error
    assert nb.open_slide_result(tmp_path / "a").failed_tiles == result.failed_tiles
    generator = ThresholdGenerator()
    mended = run(image, tmp_path / "a", generator, recipe=recipe)
    assert generator.calls == 1
    assert same(mended, run(image, tmp_path / "b", recipe=recipe))
    assert not mended.failed_tiles


def test_a_tile_that_fails_once_is_tried_again(image: NDArray[np.uint8], tmp_path: Path) -> None:
    assert not run(image, tmp_path, ThresholdGenerator(fails_on=(0, 112), fails_once=True)).failed_tiles


def test_the_command_line_tells_of_a_tile_that_fails_and_does_it_the_next_time(
    image: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    zarr.create_array(tmp_path / "slide.zarr", data=image, chunks=(128, 128, 3))
    monkeypatch.setattr("napari_bloodcell.images.open.LARGE_PX", 100 * 100)
    command = ["analyse", str(tmp_path / "slide.zarr"), "--output", str(tmp_path / "out"), "--quiet"]
    command += ["--tile-size", "160", "--rbc-diameter-px", "24", "--no-overlay", "--no-kde"]

    def run_with(generator: ThresholdGenerator) -> int:
        models = batch.Models(generator, BrightnessClassifier())
        monkeypatch.setattr(batch, "load_models", lambda *_args, **_options: models)
        return cli.main(command)

    assert run_with(ThresholdGenerator(fails_on=(0, 112))) == cli.SOME_FAILED
    assert "r00_c01" in capsys.readouterr().err
    (failed,) = json.loads((tmp_path / "out" / "slide" / "counts.json").read_text(encoding="utf-8"))["failed_tiles"]
    assert failed["name"] == "r00_c01"
    assert "out of memory" in failed["error"]
    assert "incomplete" in (tmp_path / "out" / "summary.csv").read_text(encoding="utf-8")
    assert run_with(ThresholdGenerator()) == cli.DONE
    assert not nb.open_slide_result(tmp_path / "out" / "slide").failed_tiles


@pytest.mark.parametrize("after", [4, 13, 20])
def test_a_full_disk_stops_the_run_and_costs_nothing_that_is_done(
    after: int,
    image: NDArray[np.uint8],
    uninterrupted: nb.SlideResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = iter(range(10_000))
    write: Callable[[Path, bytes], None] = work_files.write_bytes

    def write_until_full(path: Path, content: bytes) -> None:
        if next(written) >= after:
            raise OutputError(f"{path} cannot be written: No space left on device.")
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(work_files, "write_bytes", write_until_full)
        with pytest.raises(OutputError, match="No space left"):
            run(image, tmp_path / "a")
    generator = ThresholdGenerator()
    assert same(run(image, tmp_path / "a", generator), uninterrupted)
    assert generator.calls <= N_TILES - min(after - 3, N_TILES)


def test_a_damaged_file_of_unfinished_work_is_done_again(
    image: NDArray[np.uint8], uninterrupted: nb.SlideResult, tmp_path: Path
) -> None:
    work: Iterator[Any] = iter_analyse_slide(
        image, tmp_path / "a", recipe=settings(), generator=ThresholdGenerator(), classifier=BrightnessClassifier()
    )
    for _ in range(9):
        next(work)
    work.close()  # type: ignore[attr-defined]
    tile = sorted((tmp_path / "a" / "work" / "tiles").glob("*/*.npz"))[0]
    tile.write_bytes(tile.read_bytes()[:100])
    assert same(run(image, tmp_path / "a"), uninterrupted)


def test_two_runs_on_one_output_refuse_each_other(image: NDArray[np.uint8], tmp_path: Path) -> None:
    first = iter_analyse_slide(
        image, tmp_path, recipe=settings(), generator=ThresholdGenerator(), classifier=BrightnessClassifier()
    )
    next(first)
    with pytest.raises(OutputError, match="Another run"):
        run(image, tmp_path)
    first.close()
    assert len(run(image, tmp_path).table) > 0


def test_empty_glass_is_not_looked_at_by_the_model(tmp_path: Path) -> None:
    image = np.full((480, 800, 3), 228, np.uint8)
    image += np.random.default_rng(0).integers(0, 6, image.shape, np.uint8)
    image[:160, :160] = random_discs((160, 160), 12)
    generator = ThresholdGenerator()
    result = run(image, tmp_path, generator)
    assert len(result.table) > 3
    assert generator.calls <= 4


@dataclass
class PreciseGenerator(ThresholdGenerator):
    """Says in which precision it works, and finds other cells in each."""

    precision: str = "bfloat16"

    def in_precision(self, name: str) -> PreciseGenerator:
        return replace(self, precision=name)

    def generate(self, *args: Any, **options: Any) -> Any:
        masks = super().generate(*args, **options)
        return masks if self.precision == "bfloat16" else [replace(m, score=0.5, predicted_iou=0.5) for m in masks]


def begun_in(precision: str, image: Any, output: Path) -> None:
    models = {"generator": PreciseGenerator(precision=precision), "classifier": BrightnessClassifier()}
    work = iter_analyse_slide(image, output, recipe=settings(), **models)
    for _ in range(9):
        next(work)
    work.close()


def test_a_slide_goes_on_in_the_precision_in_which_it_was_begun(image: NDArray[np.uint8], tmp_path: Path) -> None:
    begun_in("bfloat16", image, tmp_path / "a")
    result = run(image, tmp_path / "a", PreciseGenerator(precision="float32"))
    assert result.recipe.segment.precision == "bfloat16"
    assert set(result.table["predicted_iou"]) == {0.9}


def test_a_slide_in_another_precision_than_it_was_begun_in_is_begun_anew(
    image: NDArray[np.uint8], tmp_path: Path
) -> None:
    begun_in("bfloat16", image, tmp_path / "a")
    result = run(image, tmp_path / "a", PreciseGenerator(), recipe=settings(precision="float32"))
    assert result.recipe.segment.precision == "float32"
    assert set(result.table["predicted_iou"]) == {0.5}


def test_a_generator_that_knows_one_precision_only_never_goes_on_with_anothers_tiles(
    image: NDArray[np.uint8], tmp_path: Path
) -> None:
    @dataclass
    class Fixed(ThresholdGenerator):
        precision: str = "float32"

    begun_in("bfloat16", image, tmp_path / "a")
    generator = Fixed()
    assert run(image, tmp_path / "a", generator).recipe.segment.precision == "float32"
    assert generator.calls == N_TILES


def test_a_result_that_records_no_precision_is_still_what_was_asked_for(
    image: NDArray[np.uint8], tmp_path: Path
) -> None:
    run(image, tmp_path / "a")  # a generator that does not tell: "auto" stays, as before there were precisions
    generator = PreciseGenerator()
    run(image, tmp_path / "a", generator)
    assert generator.calls == 0
