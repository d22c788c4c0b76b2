"""OME-Zarr stores and work folders that lack chunks, or whose chunks or metadata are damaged."""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.fuzzing.images import check_plane
from benchmarks.fuzzing.mutate import pick, spoil, spoil_json
from benchmarks.fuzzing.records import small_result, write_small_result
from napari_bloodcell.core.errors import BloodCellError
from napari_bloodcell.images.open import open_slide, read_plane
from napari_bloodcell.napari.reader import read_layers
from napari_bloodcell.results.store import open_slide_result, read_result
from napari_bloodcell.slides.run import iter_analyse_slide
from tests.fakes import BrightnessClassifier, ThresholdGenerator

if TYPE_CHECKING:
    from collections.abc import Callable


@cache
def _result() -> Path:
    return write_small_result(Path(tempfile.mkdtemp(prefix="fuzz-")) / "result")


@cache
def _old_zarr() -> Path:
    """Return an OME-Zarr of the version before (Zarr 2, 0.4)."""
    import zarr

    path = Path(tempfile.mkdtemp(prefix="fuzz-")) / "old.zarr"
    image = np.moveaxis(small_result()[0], -1, 0)
    root: Any = zarr.create_group(path, zarr_format=2)
    stored = root.create_array("0", shape=image.shape, chunks=(3, 40, 40), dtype=np.uint8)
    stored[...] = image
    axes = [{"name": "c", "type": "channel"}, *({"name": a, "type": "space", "unit": "micrometer"} for a in "yx")]
    scale = [{"type": "scale", "scale": [1.0, 0.2, 0.2]}]
    root.attrs["multiscales"] = [
        {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    ]
    return path


def spoil_store(rng: np.random.Generator, path: Path) -> None:
    """Damage one to three files of a Zarr store."""
    for _ in range(int(rng.integers(1, 4))):
        files = sorted(p for p in path.rglob("*") if p.is_file())
        described = [p for p in files if p.suffix == ".json" or p.name in (".zattrs", ".zarray", ".zgroup")]
        file = pick(rng, described if described and rng.random() < 0.6 else files) if files else path / "zarr.json"
        what = rng.random()
        if what < 0.2:
            file.unlink(missing_ok=True)
        elif what < 0.25:
            file.unlink(missing_ok=True)
            file.mkdir()
        elif what < 0.45 or file not in described:
            file.write_bytes(spoil(rng, file.read_bytes()))
        else:
            try:
                content = json.loads(file.read_bytes())
            except (ValueError, RecursionError):
                continue
            file.write_text(json.dumps(spoil_json(rng, content)), encoding="utf-8")


def use_zarr(rng: np.random.Generator, folder: Path) -> object:
    """Read a damaged store as a plane, as a slide, as a result and as layers."""
    target = folder / "result"
    is_old = rng.random() < 0.3
    path = target / "smear.ome.zarr"
    shutil.copytree(_old_zarr(), path) if is_old else shutil.copytree(_result(), target)
    spoil_store(rng, path)

    def as_slide() -> object:
        slide = open_slide(path)
        return slide.read((0, 0, min(40, slide.shape[0]), min(40, slide.shape[1])))

    def as_plane() -> object:
        plane = read_plane(path)
        check_plane(plane)
        return plane

    readers: list[Callable[[], object]] = [as_plane, as_slide]
    readers += [] if is_old else [lambda: read_result(target), lambda: read_layers(target)]
    error: BloodCellError | None = None
    for read in readers:
        try:
            read()
        except BloodCellError as found:
            error = found
    if error is not None:
        raise error
    return path


@cache
def _stopped() -> Path:
    """Return the folder of a slide's analysis that was stopped half-way."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-")) / "stopped"
    work = _analysis(folder)
    for step in work:
        if step.total and step.done >= step.total // 2:
            break
    work.close()
    return folder


def _analysis(folder: Path) -> Any:
    image, result = small_result()
    models = {"generator": ThresholdGenerator(), "classifier": BrightnessClassifier()}
    segment = result.recipe.segment.model_copy(update={"tile_size": 64})
    return iter_analyse_slide(image, folder, recipe=result.recipe.model_copy(update={"segment": segment}), **models)


def use_work(rng: np.random.Generator, folder: Path) -> object:
    """Go on with an analysis whose unfinished work is damaged; the result is the one of an undisturbed run."""
    target = folder / "out"
    shutil.copytree(_stopped(), target)
    files = sorted(p for p in (target / "work").rglob("*") if p.is_file())
    for _ in range(int(rng.integers(1, 4))):
        file = pick(rng, files)
        if rng.random() < 0.2:
            file.unlink(missing_ok=True)
        elif file.suffix == ".json" and file.exists() and rng.random() < 0.7:
            try:
                content = spoil_json(rng, json.loads(file.read_bytes()))
            except (ValueError, RecursionError):
                continue
            file.write_text(json.dumps(content), encoding="utf-8")
        elif file.exists():
            file.write_bytes(spoil(rng, file.read_bytes()))
    for _ in _analysis(target):
        pass
    found = open_slide_result(target)
    expected = small_result()[1]
    if len(found.table) != len(expected.table) or not np.array_equal(np.asarray(found.cells), expected.cells):
        raise AssertionError(f"{len(found.table)} cells, not {len(expected.table)}")
    return found
