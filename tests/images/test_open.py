"""Slides of every format open lazily, as RGB levels with their µm per pixel."""

from __future__ import annotations

import gc
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

import napari_bloodcell as nb
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.images.open import is_slide
from napari_bloodcell.results.ome_zarr import write_ome_zarr
from tests.slides.conftest import random_discs

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SHAPE = (1400, 1100)
BOX = (300, 200, 460, 500)


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).integers(0, 12, (*SHAPE, 3), np.uint8)
    return random_discs(SHAPE, 150) - noise


def read(slide: nb.SlideImage, box: tuple[int, int, int, int] = BOX) -> NDArray[np.uint8]:
    return slide.read(box)


def part(image: NDArray[Any], box: tuple[int, int, int, int] = BOX) -> NDArray[Any]:
    return image[box[0] : box[2], box[1] : box[3]]


def test_an_ome_zarr_opens_with_its_levels_and_its_pixel_size(image: NDArray[np.uint8], tmp_path: Path) -> None:
    cells = np.zeros(SHAPE, np.int32)
    write_ome_zarr(
        tmp_path / "a.ome.zarr", image=image, cells=cells, types=cells.astype(np.uint8), names=["RBC"], name="a",
        pixel_size_um=0.25,
    )  # fmt: skip
    slide = nb.open_slide(tmp_path / "a.ome.zarr")
    assert (slide.shape, slide.pixel_size_um, slide.name) == (SHAPE, 0.25, "a")
    assert [level.shape for level in slide.levels] == [(1400, 1100, 3), (700, 550, 3)]
    assert np.array_equal(read(slide), part(image))


def test_ome_zarr_of_version_0_4_opens(image: NDArray[np.uint8], tmp_path: Path) -> None:
    root = zarr.create_group(tmp_path / "old.zarr", zarr_format=2)
    levels = [image, image[::2, ::2]]
    for i, level in enumerate(levels):
        data = np.moveaxis(level, -1, 0)[None, :, None]
        root.create_array(str(i), data=data, chunks=(1, 1, 1, 256, 256))
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    root.attrs["multiscales"] = [
        {
            "version": "0.4",
            "axes": [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}, *axes],
            "datasets": [
                {"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1, s, s]}]}
                for i, s in enumerate((0.2, 0.4))
            ],
        }
    ]
    slide = nb.open_slide(tmp_path / "old.zarr")
    assert (slide.shape, slide.pixel_size_um, len(slide.levels)) == (SHAPE, 0.2, 2)
    assert np.array_equal(read(slide), part(image))


@pytest.mark.parametrize("ome", [True, False])
def test_a_tiff_pyramid_opens_with_its_levels(ome: bool, image: NDArray[np.uint8], tmp_path: Path) -> None:
    path = tmp_path / ("a.ome.tif" if ome else "a.tif")
    options: dict[str, Any] = {"photometric": "rgb", "tile": (256, 256), "compression": "zlib"}
    about = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5} if ome else None
    resolution = {} if ome else {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, ome=ome) as tiff:
        tiff.write(image, subifds=1, metadata=about, **options, **resolution)
        tiff.write(image[::2, ::2], subfiletype=1, **options)
    slide = nb.open_slide(path)
    assert (slide.shape, slide.pixel_size_um) == (SHAPE, 0.5)
    assert [level.shape[0] for level in slide.levels] == [1400, 700]
    assert slide.reads_tiles
    assert np.array_equal(read(slide), part(image))
    assert np.array_equal(slide.levels[1][10:90, 20:70], image[::2, ::2][10:90, 20:70])


def test_a_tiff_is_closed_wherever_it_was_held(image: NDArray[np.uint8], tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "slide.tif", image, tile=(64, 64), photometric="rgb")
    held: list[Any] = [nb.open_slide(tmp_path / "slide.tif")]
    held.append(held)  # in a circle, as layers and their viewers hold each other
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        del held
        gc.collect()
    assert [str(w.message) for w in said] == []


def test_what_openslide_reads_opens_with_its_pixel_size(image: NDArray[np.uint8], tmp_path: Path) -> None:
    pytest.importorskip("openslide")
    path = tmp_path / "a.svs"
    with tifffile.TiffWriter(path) as tiff:
        for level in (image, image[::2, ::2]):
            tiff.write(
                level,
                photometric="rgb",
                tile=(256, 256),
                description="Aperio Image Library v1\n1100x1400 |AppMag = 40|MPP = 0.2505",
                metadata=None,
            )
    slide = nb.open_slide(path)
    assert (slide.shape, slide.pixel_size_um) == (SHAPE, 0.2505)
    assert len(slide.levels) == 2
    assert np.array_equal(read(slide), part(image))


@pytest.mark.parametrize("ending", ["png", "bmp"])
def test_a_picture_opens_and_its_size_is_known_at_once(ending: str, image: NDArray[np.uint8], tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(image).save(path)
    slide = nb.open_slide(path)
    assert slide.shape == SHAPE
    assert np.array_equal(read(slide), part(image))


def test_arrays_of_any_kind_open(image: NDArray[np.uint8], tmp_path: Path) -> None:
    import dask.array

    stored = zarr.create_array(tmp_path / "plain.zarr", data=image, chunks=(256, 256, 3))
    del stored
    as_zarr = zarr.open_array(str(tmp_path / "plain.zarr"), mode="r")
    for source in (
        image,
        dask.array.from_array(image, chunks=(300, 300, 3)),
        as_zarr,
        str(tmp_path / "plain.zarr"),
        [image, image[::2, ::2], image[::4, ::4]],
        np.moveaxis(image, -1, 0),
    ):
        slide = nb.open_slide(source)
        assert slide.shape == SHAPE
        assert np.array_equal(read(slide), part(image))
    assert nb.open_slide(as_zarr).source == str(tmp_path / "plain.zarr")


def test_values_are_scaled_alike_in_every_part(image: NDArray[np.uint8]) -> None:
    deep = image.astype(np.uint16) * 16
    slide = nb.open_slide(deep).with_measured_values()
    assert np.array_equal(read(slide), part(nb.read_plane(deep).data))
    grey = nb.open_slide(image[..., 0]).with_measured_values()
    assert np.array_equal(read(grey), part(np.repeat(image[..., :1], 3, 2)))


@pytest.mark.parametrize(
    "key",
    [
        np.s_[10:40, 5:60],
        np.s_[10:40:3, 5:60:2, :],
        np.s_[7],
        np.s_[7, 9],
        np.s_[..., 1],
        np.s_[:5, -3, 2],
        np.s_[1390:1500, 1090:],
    ],
)
def test_a_level_is_sliced_like_an_array(key: Any, image: NDArray[np.uint8]) -> None:
    assert np.array_equal(nb.open_slide(image).levels[0][key], image[key])


def test_rows_are_told_from_tiles(image: NDArray[np.uint8], tmp_path: Path) -> None:
    tall = np.zeros((3, 40_000, 1000), np.uint8)
    assert not nb.open_slide(zarr.create_array({}, data=tall, chunks=(3, 40_000, 1000))).reads_tiles
    assert nb.open_slide(image).reads_tiles


def test_thumbnails_and_labels_are_no_levels() -> None:
    levels = [np.zeros((800, 600, 3), np.uint8), np.zeros((400, 300, 3), np.uint8), np.zeros((90, 300, 3), np.uint8)]
    assert len(nb.open_slide(levels).levels) == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((0, 5, 3)), "no pixels"),
        (np.zeros((6, 40, 40), np.uint8), "one is analysed at a time"),
        ([np.zeros((9, 9))] * 2, "of the same shape"),
        ("missing.svs", "There is no file"),
    ],
)
def test_what_is_no_slide_is_an_error(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        nb.open_slide(source)


def test_large_images_and_lazy_arrays_are_slides(tmp_path: Path) -> None:
    import dask.array

    assert is_slide(dask.array.zeros((50, 50, 3), dtype=np.uint8))
    assert is_slide(np.broadcast_to(np.uint8(0), (10_000, 9_000, 3)))
    assert not is_slide(np.zeros((900, 900, 3), np.uint8))
    Image.new("RGB", (30, 40)).save(tmp_path / "small.png")
    assert not is_slide(tmp_path / "small.png")
