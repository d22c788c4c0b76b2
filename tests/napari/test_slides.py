"""Slides and their results in napari: pyramids on disk, filled in while cells are found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import zarr
from napari.components import ViewerModel
from napari.layers import Labels
from PIL import Image

import napari_bloodcell as nb
from napari_bloodcell.core.progress import drain
from napari_bloodcell.napari import pyramids
from napari_bloodcell.napari.docks.slide import view
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.images import image_source
from napari_bloodcell.napari.layers.types import TypedView
from napari_bloodcell.napari.reader import get_reader
from napari_bloodcell.slides.run import iter_analyse_slide
from tests.fakes import BrightnessClassifier, ThresholdGenerator
from tests.slides.conftest import random_discs, settings

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SHAPE = (1200, 1100)


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return random_discs(SHAPE, 300)


@pytest.fixture
def slide(image: NDArray[np.uint8], tmp_path: Path) -> Path:
    options: dict[str, Any] = {"photometric": "rgb", "tile": (256, 256)}
    with tifffile.TiffWriter(tmp_path / "slide.tif") as tiff:
        tiff.write(image, subifds=1, resolution=(4e4, 4e4), resolutionunit="CENTIMETER", **options)
        tiff.write(image[::2, ::2], subfiletype=1, **options)
    return tmp_path / "slide.tif"


def test_a_slide_opens_as_one_rgb_pyramid_with_its_units(slide: Path, image: NDArray[np.uint8]) -> None:
    viewer = ViewerModel()
    read = get_reader(str(slide))
    assert read is not None
    ((data, about, kind),) = read(str(slide))
    layer = viewer.add_image(data, **about)
    assert (kind, layer.multiscale, layer.rgb, len(layer.data)) == ("image", True, True, 2)
    assert layer.scale.tolist() == [0.25, 0.25]
    assert np.array_equal(np.asarray(layer.data[0][100:200, 50:70]), image[100:200, 50:70])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".zarr"])
def test_a_plain_picture_is_a_plain_layer(suffix: str, image: NDArray[np.uint8], tmp_path: Path) -> None:
    path = str(tmp_path / f"plain{suffix}")
    if suffix == ".zarr":
        zarr.create_array(path, data=image, chunks=(256, 256, 3))
    else:
        Image.fromarray(image).save(path)
    ((data, about, _),) = get_reader(path)(path)
    layer = ViewerModel().add_image(data, **about)
    assert (layer.multiscale, layer.rgb) == (False, True)
    assert np.array_equal(layer.data, image)


@pytest.mark.parametrize("axes", ["ZYX", "TZYX", "ZYXS"])
def test_a_stack_opens_with_its_planes(axes: str, tmp_path: Path) -> None:
    planes = np.random.default_rng(0).integers(0, 255, (2, 3, 40, 50, 3), np.uint8)
    stack = {"ZYX": planes[0, ..., 0], "TZYX": planes[..., 0], "ZYXS": planes[0]}[axes]
    path = str(tmp_path / "stack.ome.tif")
    about = {"axes": axes, "PhysicalSizeX": 0.2, "PhysicalSizeY": 0.2}
    tifffile.imwrite(path, stack, metadata=about, photometric="rgb" if axes.endswith("S") else "minisblack")
    ((data, about, _),) = get_reader(path)(path)
    layer = ViewerModel().add_image(data, **about)
    expected = stack if axes.endswith("S") else np.stack([stack] * 3, -1)
    assert (layer.multiscale, layer.scale.tolist()[-2:]) == (False, [0.2, 0.2])
    assert np.array_equal(layer.data, expected)
    assert image_source(layer).stack_shape == expected.shape[:-3]


def test_three_grey_pages_and_an_animation_open_as_planes(tmp_path: Path) -> None:
    frames = [Image.new("L", (50, 40), 60 * i) for i in range(3)]
    tifffile.imwrite(tmp_path / "a.tif", np.stack(frames), photometric="minisblack")
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    for name in ("a.tif", "a.gif"):
        ((data, about, _),) = get_reader(str(tmp_path / name))(str(tmp_path / name))
        assert ViewerModel().add_image(data, **about).data[:, 0, 0, 0].tolist() == [0, 60, 120]


def test_a_large_image_without_a_pyramid_gets_coarser_levels(
    image: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyramids, "LARGE_PX", 1000 * 1000)
    zarr.create_array(tmp_path / "plain.zarr", data=image, chunks=(256, 256, 3))
    ((data, about, _),) = get_reader(str(tmp_path / "plain.zarr"))(str(tmp_path / "plain.zarr"))
    layer = ViewerModel().add_image(data, **about)
    assert [level.shape for level in layer.data][:2] == [(1200, 1100, 3), (600, 550, 3)]
    assert np.array_equal(np.asarray(layer.data[1]), image[::2, ::2])


def test_a_slide_is_analysed_live_and_ends_in_linked_layers(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_bloodcell.slides.run.BLOCK_PX", 512)
    monkeypatch.setattr(view, "REFRESH_EVERY_S", 0.0)
    viewer = ViewerModel()
    ((data, about, _),) = get_reader(str(slide))(str(slide))
    layer = viewer.add_image(data, **about)
    seen: list[int] = []

    def look(_step: nb.Progress) -> None:
        live = [one for one in viewer.layers if isinstance(one, Labels) and "in progress" in one.name]
        if live:
            seen.append(int(np.count_nonzero(np.asarray(live[0].data[0][...]))))

    models = {"generator": ThresholdGenerator(), "classifier": BrightnessClassifier()}
    result = nb.napari.analyse_slide(layer, tmp_path / "out", recipe=settings(), on_progress=look, **models)
    assert len(set(seen)) > 3
    assert seen == sorted(seen)
    assert [one.name for one in viewer.layers] == ["slide", "slide types", "slide cells"]
    cells = viewer.layers["slide cells"]
    types = links.types_layer_for(viewer, cells)
    assert cells.multiscale
    assert isinstance(types.data[0], TypedView)
    assert np.array_equal(np.asarray(types.data[0][...]), result.types[...])
    assert len(cells.features) == len(result.table) + 1
    assert nb.napari.count_layer(cells).counts == result.counts
    layers.set_types(cells, [1], "platelet")
    assert set(np.asarray(types.data[0][...])[result.cells[...] == 1]) == {3}


def test_a_result_of_a_slide_opens_with_all_its_layers(slide: Path, tmp_path: Path) -> None:
    models = {"generator": ThresholdGenerator(), "classifier": BrightnessClassifier()}
    result = nb.analyse(slide, output=tmp_path / "out", recipe=settings(), workers=1, **models)
    assert isinstance(result, nb.SmearResult)  # it is small
    on_disk = drain(iter_analyse_slide(slide, tmp_path / "slide", recipe=settings(), **models))
    viewer = ViewerModel()
    nb.napari.open_result(tmp_path / "slide", viewer)
    assert {one.name for one in viewer.layers} == {"slide", "slide types", "slide cells"}
    cells = viewer.layers["slide cells"]
    assert cells.multiscale
    assert not isinstance(cells.data[0], np.ndarray)
    assert links.table_of(cells)["area_px"].sum() == on_disk.table["area_px"].sum()
    assert nb.napari.count_layer(cells).counts == on_disk.counts == result.counts
