"""Slides of scanners are read by OpenSlide, which takes these small ones for its own, and analysed like others."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import napari_bloodcell as nb
from napari_bloodcell.cli.folders import collect
from napari_bloodcell.core.cells import centroids_of
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.progress import drain
from napari_bloodcell.napari import reader
from napari_bloodcell.slides.run import iter_analyse_slide
from tests.fakes import BrightnessClassifier, ThresholdGenerator
from tests.images.scanner_files import pyramid, write_mrxs, write_ndpi, write_svs
from tests.slides.conftest import random_discs, settings

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

openslide = pytest.importorskip("openslide")
SHAPE = (1024, 1536)
UM = {"svs": 0.2505, "ndpi": 0.46, "mrxs": 0.23}
VENDORS = {"svs": "aperio", "ndpi": "hamamatsu", "mrxs": "mirax"}


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return np.tile(random_discs((512, 512), 30), (2, 3, 1))


@pytest.fixture(scope="module")
def slides(image: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scanned")
    levels = pyramid(image, 2)
    write_svs(folder / "a.svs", levels, UM["svs"])
    write_ndpi(folder / "a.ndpi", levels, UM["ndpi"])
    write_mrxs(folder / "a.mrxs", image, UM["mrxs"])
    return folder


@pytest.mark.parametrize("ending", ["svs", "ndpi", "mrxs"])
def test_a_scan_opens_with_its_levels_and_its_pixel_size(ending: str, image: NDArray[np.uint8], slides: Path) -> None:
    path = slides / f"a.{ending}"
    assert openslide.OpenSlide.detect_format(path) == VENDORS[ending]
    slide = nb.open_slide(path)
    assert (slide.shape, slide.name) == (SHAPE, "a")
    assert slide.pixel_size_um == pytest.approx(UM[ending])
    assert [level.shape for level in slide.levels[:2]] == [(1024, 1536, 3), (512, 768, 3)]
    assert differs(slide.levels[0][300:460, 200:500], image[300:460, 200:500]) < 1
    assert differs(slide.levels[1][100:250, 300:390], pyramid(image, 2)[1][100:250, 300:390]) < 1.5


def test_a_small_scan_is_analysed_in_memory_and_in_a_batch_and_never_its_thumbnail(
    slides: Path, tmp_path: Path
) -> None:
    models = {"generator": ThresholdGenerator(), "classifier": BrightnessClassifier()}
    in_memory = nb.analyse(slides / "a.mrxs", recipe=settings(), **models)
    assert in_memory.cells.shape == SHAPE
    assert in_memory.counting.per_mm2 is not None  # by its µm per pixel
    found, missing = collect([str(slides)])
    assert [path.name for path in found] == ["a.mrxs", "a.ndpi", "a.svs"]
    assert not missing
    assert nb.read_plane(slides / "a.mrxs").data.shape == (*SHAPE, 3)


def differs(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize("ending", ["svs", "ndpi", "mrxs"])
def test_napari_shows_a_scan_as_one_rgb_pyramid_in_micrometres(ending: str, slides: Path) -> None:
    from napari.components import ViewerModel

    path = str(slides / f"a.{ending}")
    ((levels, about, kind),) = reader.get_reader(path)(path)
    layer = ViewerModel().add_image(levels, **about)
    assert (kind, layer.rgb, layer.multiscale) == ("image", True, True)
    assert layer.scale.tolist() == pytest.approx([UM[ending]] * 2)
    assert [str(unit) for unit in layer.units] == ["micrometer"] * 2


def analysed(source: Any, output: Path) -> nb.SlideResult:
    models = {"generator": ThresholdGenerator(), "classifier": BrightnessClassifier()}
    return drain(iter_analyse_slide(source, output, recipe=settings(), **models))


@pytest.mark.parametrize("ending", ["ndpi", "mrxs"])
def test_cells_of_a_scan_are_those_of_its_pixels(ending: str, slides: Path, tmp_path: Path) -> None:
    scan = nb.open_slide(slides / f"a.{ending}")
    found = analysed(slides / f"a.{ending}", tmp_path / "scan")
    same = analysed(np.asarray(scan.levels[0]), tmp_path / "pixels")
    assert len(found.table) > 60
    assert np.array_equal(found.cells[...], same.cells[...])


def test_a_damaged_part_of_a_scan_costs_the_tiles_that_lie_there_and_no_others(
    image: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("napari_bloodcell.stages.segment")
    monkeypatch.setattr(module, "SAMPLE_SIDE_PX", 300)  # as of a large slide, a part is measured
    write_mrxs(tmp_path / "a.mrxs", image, 0.23)
    data = tmp_path / "a" / "Data0000.dat"
    content = bytearray(data.read_bytes())
    first_tile = content.index(b"\xff\xd8\xff")
    content[first_tile : first_tile + 400] = bytes(400)
    data.write_bytes(content)
    slide = nb.open_slide(tmp_path / "a.mrxs")
    with pytest.raises(InputError, match=r"a\.mrxs cannot be read at .* damaged"):
        slide.read((0, 100, 200, 500))
    assert differs(slide.read((300, 200, 460, 500)), image[300:460, 200:500]) < 1
    result = analysed(tmp_path / "a.mrxs", tmp_path / "out")
    assert [tile.name for tile in result.failed_tiles] == ["r00_c00", "r00_c01", "r01_c00", "r01_c01"]
    assert all("is damaged" in tile.error for tile in result.failed_tiles)
    whole = analysed(image, tmp_path / "whole")

    def far(table: pd.DataFrame) -> list[object]:
        return centroids_of(table[(table["bbox_y0"] > 400) | (table["bbox_x0"] > 400)]).tolist()

    assert np.allclose(far(result.table), far(whole.table), atol=0.5)
