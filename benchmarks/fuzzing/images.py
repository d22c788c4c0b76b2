"""Images that are wrong: arrays of any dtype and shape, files that are torn, altered or named wrongly."""

from __future__ import annotations

import io
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.fuzzing.mutate import pick, spoil
from napari_bloodcell.cli import batch
from napari_bloodcell.cli import main as cli
from napari_bloodcell.core.errors import BloodCellError, InputWarning
from napari_bloodcell.core.params import Recipe, SegmentParams
from napari_bloodcell.images.open import is_slide, open_slide, read_plane
from napari_bloodcell.pipeline import analyse
from napari_bloodcell.results.store import read_result
from tests.fakes import BrightnessClassifier, ThresholdGenerator

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_bloodcell.images.plane import Plane
    from napari_bloodcell.results.result import SmearResult

DTYPES = (
    *("bool", "uint8", "uint8", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", ">u2", ">f4"),
    *("float16", "float32", "float64", "longdouble", "complex64", "object", "U3", "S2", "M8[s]", "m8[s]", "V4"),
)
SUFFIXES = (".png", ".jpg", ".tif", ".bmp", ".webp", ".gif", ".txt", "", ".svs", ".ome.tif", ".PNG")


def check_plane(plane: Plane) -> None:
    """Raise where a plane is not what it is said to be."""
    data = plane.data
    if data.dtype != np.uint8 or data.ndim != 3 or data.shape[2] != 3 or 0 in data.shape or data.flags.writeable:
        raise AssertionError(f"a plane of {data.dtype} {data.shape}, writeable {data.flags.writeable}")
    if plane.pixel_size_um is not None and not 0 < plane.pixel_size_um < 100:
        raise AssertionError(f"{plane.pixel_size_um} µm per pixel")


def make_array(rng: np.random.Generator, *, largest: int = 5000) -> Any:
    """Return an array, or what is like one, of any dtype, shape and content."""
    side = [max(1, int(np.exp(rng.uniform(0, np.log(largest))))) for _ in range(2)]
    if side[0] * side[1] > 4_000_000:
        side[int(rng.integers(2))] = int(rng.integers(1, 200))
    shape = pick(
        rng,
        (
            (*side,), (*side, 3), (*side, 3), (*side, 3), (*side, 4), (3, *side), (*side, 1), (1, 1, *side, 3),
            (*side, int(rng.integers(2, 7))), (int(rng.integers(1, 6)), *side), (side[0],), (), (0, side[1]),
            (side[0], 0, 3), (1, 3, 1, *side), (1, 1), (2, 2, 2, 2, 2, 2),
        ),
    )  # fmt: skip
    return _wrapped(rng, _valued(rng, np.dtype(pick(rng, DTYPES)), shape))


def _valued(rng: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if dtype.kind in "OUSMmV":
        return np.zeros(shape, dtype)
    top = float(pick(rng, (1, 255, 255, 1023, 65535, 1e9, 1e300, 0)))
    what = pick(rng, ("noise", "noise", "constant", "discs", "few values", "negative"))
    if what == "constant":
        values: NDArray[Any] = np.full(shape, top * rng.random())
    elif what == "discs" and len(shape) >= 2:
        y, x = np.indices(shape[:2])
        plane = np.where((y % 40 - 20) ** 2 + (x % 40 - 20) ** 2 < 120, 0.4, 0.9) * top
        values = np.broadcast_to(plane.reshape(plane.shape + (1,) * (len(shape) - 2)), shape).copy()
    else:
        values = rng.random(shape) * top
        if what == "few values":
            values = np.round(values / max(top, 1) * 2) * top
        elif what == "negative":
            values -= top * rng.random()
    with np.errstate(all="ignore"):
        array = np.asarray(values).astype(dtype)
    if dtype.kind in "fc" and array.size and rng.random() < 0.4:
        flat = array.reshape(-1)
        where = rng.random(flat.size) < pick(rng, (0.001, 0.1, 1.0))
        flat[where] = pick(rng, (np.nan, np.inf, -np.inf))
    return array


def _wrapped(rng: np.random.Generator, array: NDArray[Any]) -> Any:
    what = rng.random()
    if what < 0.5:
        return array
    if what < 0.56:
        return np.asfortranarray(array)
    if what < 0.62:
        return array[::-1] if array.ndim else array
    if what < 0.68 and array.ndim > 1:
        return array[::2, ::3]
    if what < 0.74:
        array.flags.writeable = False
        return array
    if what < 0.78 and array.size < 10_000:
        return array.tolist()
    if what < 0.84 and array.dtype.kind in "buif":
        return np.ma.masked_array(array, rng.random(array.shape) < 0.1)
    if what < 0.9 and array.dtype.kind in "buif" and array.ndim and array.size:
        import dask.array

        return dask.array.from_array(array, chunks=64)
    if what < 0.94:
        return [array, array[::2, ::2] if array.ndim > 1 else array]
    return pick(rng, (None, 3, "there is no such file.png", b"bytes", {}, [], [[]], object(), array, [array, None]))


def use_array(rng: np.random.Generator, _folder: Path) -> object:
    """Read an array as a plane."""
    plane = read_plane(make_array(rng))
    check_plane(plane)
    return plane


@cache
def models() -> tuple[Any, Any]:
    """Return the program's own models, loaded once."""
    from napari_bloodcell.models.load import load_classifier, load_generator

    return load_generator("embedded", "cpu"), load_classifier("embedded", "cpu")


def analyse_array(rng: np.random.Generator, _folder: Path) -> object:
    """Analyse a small array: one in five with the program's own models, the others with a threshold."""
    array = make_array(rng, largest=160)
    if rng.random() < 0.2:
        generator, classifier = models()
        recipe = Recipe()
    else:
        generator, classifier = ThresholdGenerator(threshold=int(rng.integers(1, 256))), BrightnessClassifier()
        recipe = Recipe(segment=SegmentParams(rbc_diameter_px=float(pick(rng, (5, 10, 24, 400))), tile_size=64))
    result = analyse(array, recipe=recipe, generator=generator, classifier=classifier)
    check_result(result)
    return result


def check_result(result: SmearResult) -> None:
    """Raise where the parts of a result do not fit each other."""
    ids = np.unique(result.cells)
    if set(ids[ids > 0].tolist()) != set(range(1, len(result.table) + 1)):
        raise AssertionError("the ids of the label image are not those of the table")
    if result.types.shape != result.cells.shape or bool(((result.types > 0) != (result.cells > 0)).any()):
        raise AssertionError("types and cells do not cover the same pixels")
    if min(result.counts.values(), default=0) < 0 or (result.counts.get("RBC", 0) > 0 and not len(result.table)):
        raise AssertionError(f"the counts {result.counts} of {len(result.table)} cells")


# --- files -----------------------------------------------------------------------------------------------------------


@cache
def encoded() -> tuple[bytes, ...]:
    """Return small images in many formats and compressions."""
    import PIL.Image
    import tifffile

    y, x = np.indices((72, 90))
    grey = np.where((y % 36 - 18) ** 2 + (x % 30 - 15) ** 2 < 100, 120, 230).astype(np.uint8)
    rgb = np.stack([grey, grey // 2, grey // 3 + 90], -1)
    found = []
    for mode, form, options in (
        ("RGB", "PNG", {}), ("L", "PNG", {}), ("P", "PNG", {}), ("RGBA", "PNG", {}), ("1", "PNG", {}),
        ("I;16", "PNG", {}),
        ("RGB", "JPEG", {}), ("L", "JPEG", {}), ("CMYK", "JPEG", {}), ("RGB", "JPEG", {"progressive": True}),
        ("RGB", "BMP", {}), ("RGB", "WEBP", {}), ("RGB", "WEBP", {"lossless": True}), ("P", "GIF", {}),
        ("RGB", "TIFF", {}), ("RGB", "TIFF", {"compression": "tiff_lzw"}), ("RGB", "TIFF", {"compression": "jpeg"}),
        ("RGB", "PPM", {}), ("L", "PPM", {}), ("RGB", "JPEG2000", {}),
    ):  # fmt: skip
        picture = PIL.Image.fromarray(rgb)
        picture = PIL.Image.fromarray(grey.astype(np.uint16) * 100) if mode == "I;16" else picture.convert(mode)
        stream = io.BytesIO()
        picture.save(stream, form, **options)
        found.append(stream.getvalue())
    for data, tiff_options in (
        (rgb, {}), (grey, {}), (grey.astype(np.uint16) * 200, {}), (rgb / np.float32(255), {"photometric": "rgb"}),
        (rgb, {"compression": "zlib"}), (rgb, {"tile": (32, 32), "compression": "zlib", "predictor": True}),
        (rgb, {"tile": (32, 32)}), (np.moveaxis(rgb, -1, 0), {"photometric": "rgb", "planarconfig": "separate"}),
        (np.stack([grey] * 3), {"photometric": "minisblack"}), (rgb, {"bigtiff": True}), (rgb, {"imagej": True}),
        (rgb, {"ome": True, "metadata": {"axes": "YXS", "PhysicalSizeX": 0.2, "PhysicalSizeY": 0.2}}),
        (grey, {"ome": True, "resolution": (5e4, 5e4), "resolutionunit": "CENTIMETER"}),
        (rgb, {"byteorder": ">"}), (grey, {"photometric": "miniswhite"}), (rgb, {"compression": "lzw"}),
        (rgb, {"compression": "jpeg", "tile": (32, 32)}), (rgb, {"compression": "jpeg2000", "tile": (32, 32)}),
    ):  # fmt: skip
        stream = io.BytesIO()
        tifffile.imwrite(stream, data, **tiff_options)
        found.append(stream.getvalue())
    return tuple(found)


def write_file(rng: np.random.Generator, folder: Path, name: str = "image") -> Path:
    """Write a spoiled image under an ending that may not be its own."""
    path = folder / f"{name}{pick(rng, SUFFIXES)}"
    path.write_bytes(spoil(rng, pick(rng, encoded())))
    return path


def use_file(rng: np.random.Generator, folder: Path) -> object:
    """Read a file as a plane, and as a slide."""
    path = write_file(rng, folder)
    outcomes: list[object] = []
    try:
        plane = read_plane(path)
        check_plane(plane)
        outcomes.append(plane)
    except BloodCellError as error:
        outcomes.append(error)
    try:
        is_slide(path)
        slide = open_slide(path).with_measured_values()
        part = slide.read((0, 0, min(slide.shape[0], 64), min(slide.shape[1], 64)))
        if part.dtype != np.uint8 or part.shape[2:] != (3,):
            raise AssertionError(f"a part of {part.dtype} {part.shape}")
        outcomes.append(part)
    except BloodCellError as error:
        outcomes.append(error)
    for outcome in outcomes:
        if isinstance(outcome, BloodCellError):
            raise outcome
    return outcomes


def use_batch(rng: np.random.Generator, folder: Path) -> object:
    """Run the command line over a folder of files; whatever is wrong with them, it says so and writes whole results."""
    images = folder / "images"
    images.mkdir()
    for i in range(int(rng.integers(1, 5))):
        write_file(rng, images, f"image{i}")
    flags = pick(rng, ([], ["--format", "tiff"], ["--geojson"], ["--no-overlay", "--no-kde"], ["--rule", "paper"]))
    original = batch.load_models
    batch.load_models = lambda *_a, **_k: batch.Models(ThresholdGenerator(), BrightnessClassifier())
    try:
        code = cli.main(["analyse", str(images), "-o", str(folder / "out"), "-q", *flags])
    finally:
        batch.load_models = original
    if code not in (cli.DONE, cli.SOME_FAILED, cli.WRONG_USE):
        raise AssertionError(f"exit code {code}")
    check_output(folder / "out")
    return code


def check_output(output: Path) -> None:
    """Raise where something half-written lies under a final name, or something temporary is left."""
    left = [p for p in output.rglob("*") if p.name.startswith(".writing-")]
    if left:
        raise AssertionError(f"{left[0]} is left")
    for folder in output.iterdir() if output.is_dir() else ():
        if folder.is_dir() and any(folder.iterdir()) and not (folder / "work").is_dir():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", InputWarning)
                read_result(folder)
