"""Disks that are full or read-only: an analysis says so, and what it leaves is whole."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from typing import TYPE_CHECKING

from PIL import Image

from benchmarks.fuzzing.images import check_output
from benchmarks.fuzzing.mutate import pick
from benchmarks.fuzzing.records import IMAGE, small_result, write_small_result
from napari_bloodcell.cli import batch
from napari_bloodcell.cli import main as cli
from napari_bloodcell.core.cells import box_of
from napari_bloodcell.core.errors import OutputError
from napari_bloodcell.corrections.journal import Correction, Journal
from napari_bloodcell.results.store import open_slide_result, read_result
from napari_bloodcell.slides.run import iter_analyse_slide
from tests.fakes import BrightnessClassifier, ThresholdGenerator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np


@contextlib.contextmanager
def disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """Mount a small disk in memory."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path, kilobytes: int) -> None:
    """Fill a disk but for so much."""
    free = shutil.disk_usage(path.parent).free
    path.write_bytes(bytes(max(0, free - kilobytes * 1024)))


def _analyse(images: Path, output: Path, flags: list[str]) -> int:
    original = batch.load_models
    batch.load_models = lambda *_a, **_k: batch.Models(ThresholdGenerator(), BrightnessClassifier())
    try:
        return cli.main(["analyse", str(images), "-o", str(output), "-q", *flags])
    finally:
        batch.load_models = original


def _save_images(folder: Path, n: int) -> Path:
    folder.mkdir()
    for i in range(n):
        Image.fromarray(small_result()[0]).save(folder / f"image{i}.png")
    return folder


def use_full_disk(rng: np.random.Generator, folder: Path) -> object:
    """Write results, a slide or a journal onto a disk that fills up; an earlier result there stays whole."""
    kilobytes = int(rng.integers(1, 700))
    with disk(folder / "disk", 4096) as mounted:
        old = write_small_result(mounted / "out" / "image0")
        before = read_result(old).table
        fill(mounted / "filler", kilobytes)
        what = pick(rng, ("batch", "batch", "slide", "journal"))
        if what == "batch":
            flags = pick(rng, ([], ["--format", "tiff", "--geojson"], ["--no-overlay", "--no-kde"]))
            code = _analyse(_save_images(folder / "images", 3), mounted / "out", flags)
            if code not in (cli.DONE, cli.SOME_FAILED, cli.WRONG_USE):
                raise AssertionError(f"exit code {code}")
            check_output(mounted / "out")
            if not read_result(old).table.equals(before):
                raise AssertionError("the earlier result is not what it was")
            if code != cli.DONE:
                raise OutputError("the batch said that the disk is full")
        elif what == "slide":
            _slide(mounted / "slide", mounted / "filler")
        else:
            _journal(mounted / "journal.jsonl", old)
    return kilobytes


def _slide(output: Path, filler: Path) -> None:
    """Analyse a slide; where the disk is full, go on when there is room again."""
    image, result = small_result()
    for is_again in (False, True):
        work = iter_analyse_slide(
            image, output, recipe=result.recipe, generator=ThresholdGenerator(), classifier=BrightnessClassifier()
        )
        try:
            for _ in work:
                pass
            break
        except OutputError:
            if is_again or not filler.exists():
                raise
            filler.unlink()
    if len(open_slide_result(output).table) != len(result.table):
        raise AssertionError("a run that was gone on with found other cells")


def _journal(path: Path, result: Path) -> None:
    """Append until the disk is full; every correction that was accepted can be read."""
    cells = read_result(result).cells
    table = small_result()[1].table
    box = box_of(table, table.index[0])
    journal, accepted = Journal(path), []
    try:
        for _ in range(2000):
            correction = Correction.of_cell(
                cells,
                1,
                (box[0], box[1], box[2], box[3]),
                from_type="",
                to_type="WBC",
                annotator="a",
                image_sha256=IMAGE,
            )
            journal.append(correction)
            accepted.append(correction.key)
    finally:
        if [c.key for c in journal.read()] != accepted:
            raise AssertionError("the journal does not hold what was accepted")


def use_read_only_disk(rng: np.random.Generator, folder: Path) -> object:
    """Write onto a disk that is read-only, which root may not either."""
    with disk(folder / "disk", 4096) as mounted:
        old = write_small_result(mounted / "out" / "image0")
        subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
        what = pick(rng, ("batch", "slide", "journal", "recipe"))
        if what == "slide":
            _slide(mounted / "slide", mounted / "no filler")
        elif what == "journal":
            _journal(mounted / "new" / "journal.jsonl", old)
        else:
            code = _analyse(_save_images(folder / "images", 2), mounted / pick(rng, ("out", "new")), [])
            if code not in (cli.SOME_FAILED, cli.WRONG_USE):
                raise AssertionError(f"exit code {code}")
            read_result(old)
            raise OutputError("the batch said that nothing can be written")
    return what
