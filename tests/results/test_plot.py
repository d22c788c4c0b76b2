"""Pictures of results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from napari_bloodcell.core.cells import TYPE_COLOURS, type_names
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.params import CountParams
from napari_bloodcell.results.plot import draw_kde, draw_overlay, outlines, save_kde_png, save_overlay_png
from napari_bloodcell.stages.counting import count

if TYPE_CHECKING:
    from pathlib import Path

    from napari_bloodcell.stages.counting import Counting

NAMES = type_names(["blast"])


def smear() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A field of 120×160 px with an RBC, a WBC that touches it, a platelet, and a cell of no type."""
    yy, xx = np.mgrid[:120, :160]
    cells = np.zeros((120, 160), np.int32)
    types = np.zeros((120, 160), np.uint8)
    for i, (y, x, r, code) in enumerate([(40, 40, 17, 1), (40, 82, 26, 2), (90, 20, 5, 3), (90, 120, 15, 0)], start=1):
        inside = np.hypot(yy - y, xx - x) < r
        cells[inside], types[inside] = i, code
    image = np.random.default_rng(0).integers(120, 240, (120, 160, 3), dtype=np.uint8)
    return image, cells, types


def counting(n: int = 300, params: CountParams | None = None) -> Counting:
    rng = np.random.default_rng(0)
    areas = rng.normal(1000, 100, n) * np.where(np.arange(n) % 6 == 0, 2, 1)
    edge = np.arange(n) % 9 == 0
    areas = np.where(edge, areas * rng.uniform(0.3, 1, n), areas)
    return count(pd.DataFrame({"cell_type": "RBC", "area_px": areas, "touches_edge": edge}), params=params)


def colour(name: str) -> list[int]:
    return np.rint(255 * np.array(to_rgb(TYPE_COLOURS[name]))).astype(int).tolist()


def test_each_cell_is_outlined_in_the_colour_of_its_type() -> None:
    drawn = draw_overlay(*smear(), NAMES)
    assert drawn[40, 24].tolist() == colour("RBC")
    assert drawn[40, 107].tolist() == colour("WBC")
    assert drawn[90, 16].tolist() == colour("platelet")
    assert drawn[90, 106].tolist() == colour("unidentified")


def test_pixels_off_the_outlines_are_those_of_the_image() -> None:
    image, cells, types = smear()
    kept = image.copy()
    drawn = draw_overlay(image, cells, types, NAMES)
    lines = outlines(cells)
    assert np.array_equal(drawn[~lines], image[~lines])
    assert np.array_equal(image, kept)
    assert not lines[cells == 0].any()
    assert lines.mean() < 0.05


def test_larger_cells_have_thicker_outlines() -> None:
    _, cells, _ = smear()
    lines = outlines(cells)
    assert lines[90, 16:20].sum() == 1
    assert lines[40, 24:34].sum() == 2
    assert lines[40, 95:108].sum() == 3


def test_cells_that_touch_are_parted_by_a_line() -> None:
    cells = np.ones((20, 20), np.int32)
    cells[:, 10:] = 2
    assert outlines(cells, 1).nonzero()[1].tolist() == [9, 10] * 20


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (2, 2)])
def test_tiny_and_empty_fields_are_drawn(shape: tuple[int, int]) -> None:
    for value in (0, 1):
        drawn = draw_overlay(
            np.full((*shape, 3), 9, np.uint8), np.full(shape, value, np.int32), np.full(shape, value, np.uint8), NAMES
        )
        assert drawn.shape == (*shape, 3)


def test_an_overlay_of_images_that_differ_in_size_is_an_error() -> None:
    image, cells, types = smear()
    with pytest.raises(InputError, match="same height and width"):
        draw_overlay(image[1:], cells, types, NAMES)


@pytest.mark.parametrize("width", [20, 160])
def test_the_overlay_on_disk_has_a_strip_with_a_square_of_each_colour(tmp_path: Path, width: int) -> None:
    image, cells, types = (part[:, :width] for part in smear())
    path = tmp_path / "overlay.png"
    counts = {"RBC": 1234, "WBC": 1, "platelet": 0, "blast": 0, "unidentified": 3}
    save_overlay_png(path, image, cells, types, NAMES, counts=counts, interval=(1200, 1250))
    written = np.rint(255 * imread(path)[..., :3]).astype(int)
    assert np.array_equal(written[:120, :width], draw_overlay(image, cells, types, NAMES))
    strip = written[120:].reshape(-1, 3)
    for name in ("RBC", "WBC", "platelet", "unidentified"):
        assert (strip == colour(name)).all(1).sum() > 80
    blast = np.rint(255 * np.array(to_rgb("#3b82f6"))).astype(int)
    assert not (strip == blast).all(1).any()


def test_no_text_of_the_strip_is_cut_off(tmp_path: Path) -> None:
    image, cells, types = smear()
    counts = dict.fromkeys(NAMES, 1_000_000)
    save_overlay_png(tmp_path / "o.png", image, cells, types, NAMES, counts=counts, interval=(1, 2_000_000))
    strip = imread(tmp_path / "o.png")[120:, :, :3]
    assert (strip[:, -4:] > 0.99).all()
    assert (strip[[0, -1]] > 0.99).all()


def test_a_very_large_smear_is_drawn_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_bloodcell.results.plot.LARGEST_OVERLAY_PX", 80)
    image, cells, types = smear()
    save_overlay_png(tmp_path / "o.png", image, cells, types, NAMES, counts={"RBC": 1})
    written = imread(tmp_path / "o.png")
    assert (written[:60, :80, :3] < 1).any()
    assert (written[60:, 80:, :3] == 1).any()


def test_the_plot_shows_density_peaks_and_every_threshold_in_view() -> None:
    result = counting()
    ax = Figure().add_subplot()
    lines = draw_kde(result, ax)
    in_view = result.thresholds[result.thresholds < ax.get_xlim()[1]]
    assert [line.get_xdata()[0] for line in lines] == pytest.approx(in_view)
    assert len(in_view) >= 1
    assert ax.get_xlabel() == "Area of a red-cell region (px²)"
    assert f"{result.counts['RBC']:,} red cells" in ax.get_title(loc="left")
    heights = sum(bar.get_height() for bar in ax.patches)
    assert heights == (result.areas <= ax.get_xlim()[1]).sum()


def test_the_curve_lies_on_the_histogram() -> None:
    ax = Figure().add_subplot()
    draw_kde(counting(20_000), ax)
    bars = [bar.get_height() for bar in ax.patches if bar.get_label() != "cut by the edge"]
    assert max(ax.lines[0].get_ydata()) == pytest.approx(max(bars), rel=0.1)


@pytest.mark.parametrize("rule", ["robust", "paper", "none"])
@pytest.mark.parametrize("n", [0, 1, 2, 12, 300])
def test_any_number_of_cells_is_drawn_by_any_rule(tmp_path: Path, n: int, rule: str) -> None:
    result = counting(n, CountParams.model_validate({"rule": rule}))
    save_kde_png(tmp_path / "kde.png", result, pixel_size_um=0.2)
    assert imread(tmp_path / "kde.png").shape == (800, 1280, 4)


def test_without_red_cells_the_plot_says_so() -> None:
    ax = Figure().add_subplot()
    assert draw_kde(counting(0), ax) == []
    assert ax.texts[0].get_text() == "No red cells"


def test_text_keeps_the_colour_of_the_theme() -> None:
    ax = Figure().add_subplot()
    ax.xaxis.label.set_color("#eeeeee")
    draw_kde(counting(), ax)
    assert {text.get_color() for text in ax.texts} == {"#eeeeee"}
