"""The generator of synthetic smears draws what its truth says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_bloodcell.core.cells import BOX, BUILTIN_TYPES, boxes_of
from napari_bloodcell.core.errors import SettingsError
from napari_bloodcell.napari.sample_data import shipped_smear, shipped_smear_with_truth
from napari_bloodcell.synthetic import (
    GIEMSA,
    STAINS,
    Optics,
    SyntheticSmear,
    Truth,
    draw_cells,
    draw_shipped,
    draw_smear,
    optical_density,
    place,
)
from tests.examples.scenes import RBC_PX, SCENES, TILE, rbc

Shipped = tuple[np.ndarray, Truth]
QUIET = Optics(vignetting=0, gradient=0, noise=0)


@pytest.fixture(scope="module")
def field() -> SyntheticSmear:
    return draw_smear((600, 700), seed=3, n_wbc=4, n_platelets=8, pair_share=0.15, clump_share=0.15)


def test_same_seed_draws_the_same_smear(field: SyntheticSmear) -> None:
    again = draw_smear((600, 700), seed=3, n_wbc=4, n_platelets=8, pair_share=0.15, clump_share=0.15)
    np.testing.assert_array_equal(field.image, again.image)
    np.testing.assert_array_equal(field.cells, again.cells)


def test_another_seed_draws_another_smear(field: SyntheticSmear) -> None:
    other = draw_smear((600, 700), seed=4, n_wbc=4, n_platelets=8, pair_share=0.15, clump_share=0.15)
    assert (field.cells > 0).mean() == pytest.approx((other.cells > 0).mean(), abs=0.1)
    assert ((field.cells > 0) != (other.cells > 0)).mean() > 0.2


def test_every_cell_of_the_table_is_in_the_label_image(field: SyntheticSmear) -> None:
    assert sorted(np.unique(field.cells)) == [0, *field.table.index]


def test_visible_pixels_are_those_of_the_label_image(field: SyntheticSmear) -> None:
    counted = np.bincount(field.cells.ravel())[1:]
    np.testing.assert_array_equal(field.table["visible_px"], counted)


def test_a_visible_pixel_lies_in_the_whole_mask(field: SyntheticSmear) -> None:
    for number, (y0, x0, y1, x1) in field.table[list(BOX)].iterrows():
        part = field.cells[y0:y1, x0:x1] == number
        assert part.sum() == field.table.at[number, "visible_px"]
        assert field.masks[number - 1][part].all()


def test_typed_image_agrees_with_the_table(field: SyntheticSmear) -> None:
    for number, name in field.table["cell_type"].items():
        assert (field.types[field.cells == number] == BUILTIN_TYPES.index(name) + 1).all()


def test_cells_of_a_group_of_one_do_not_overlap(field: SyntheticSmear) -> None:
    alone = field.table["cells_in_group"] == 1
    assert (field.table.loc[alone, "overlap"] == 0).all()
    assert (field.table.loc[~alone, "overlap"] > 0).all()


def test_pairs_and_clumps_are_drawn_as_asked(field: SyntheticSmear) -> None:
    red = field.table[field.table["cell_type"] == "RBC"]
    assert (red["cells_in_group"] > 1).mean() == pytest.approx(0.3, abs=0.08)


def test_no_cell_is_hidden_under_others(field: SyntheticSmear) -> None:
    assert (field.table["visible_px"] > 0.25 * field.table["area_px"]).all()


def test_cells_are_darker_than_the_glass(field: SyntheticSmear) -> None:
    green = field.image[..., 1].astype(float)
    glass = np.median(green[field.cells == 0])
    for number in field.table.index:
        assert np.median(green[field.cells == number]) < glass - 15


def test_red_cells_are_as_wide_as_asked() -> None:
    smear = draw_smear((700, 700), seed=1, rbc_diameter_px=52, anisocytosis=0.03, n_wbc=0, n_platelets=0)
    whole = smear.table[~smear.table["touches_edge"]]
    assert np.median(2 * np.sqrt(whole["area_px"] / np.pi)) == pytest.approx(52, rel=0.05)


def test_transmittances_multiply_where_cells_overlap() -> None:
    """Beer–Lambert: the light behind two cells is the product of what each lets through."""
    optics = replace(QUIET, blur_px=0.01, defocus_px=0.01)
    a, b = replace(rbc(40, 34, 1), pallor=0.0, density=0.6), replace(rbc(40, 50, 2), pallor=0.0, density=0.6)
    one, two, both = (draw_cells(specs, (80, 84), optics=optics).image[40, 42] for specs in ([a], [b], [a, b]))
    through = one.astype(float) * two / np.asarray(GIEMSA.glass)
    np.testing.assert_allclose(both, through, atol=4)


def test_optical_density_is_about_zero_at_the_end_of_its_halo() -> None:
    density = optical_density(place(rbc(0, 0)), GIEMSA)
    border = np.concatenate([density[0], density[-1], density[:, 0], density[:, -1]])
    assert np.abs(border).max() < 0.01


def test_uneven_light_darkens_the_corners() -> None:
    image = draw_cells([], (200, 200), optics=Optics(vignetting=0.3, gradient=0, noise=0)).image.astype(float)
    corners = np.mean([image[0, 0], image[0, -1], image[-1, 0], image[-1, -1]])
    assert corners < 0.85 * image[80:120, 80:120].mean()


@pytest.mark.parametrize("name", STAINS)
def test_every_stain_draws_nuclei_darker_than_red_cells(name: str) -> None:
    smear = draw_smear((300, 300), seed=2, n_wbc=1, n_platelets=0, stain=STAINS[name])
    red = smear.image[..., 0].astype(float)
    assert np.percentile(red[smear.types == 2], 5) < np.percentile(red[smear.types == 1], 20)


def test_more_cells_than_fit_are_left_out() -> None:
    smear = draw_smear((150, 150), n_rbc=400, n_wbc=0, n_platelets=0, pair_share=0, clump_share=0)
    assert 5 < smear.counts["RBC"] < 40


@pytest.mark.parametrize(
    "wrong",
    [{"shape": (0, 10)}, {"rbc_diameter_px": 2.0}, {"n_rbc": -1}, {"pair_share": 0.8, "clump_share": 0.4}],
    ids=str,
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="give"):
        draw_smear(**wrong)  # type: ignore[arg-type]


@settings(max_examples=25)
@given(y=st.floats(-60, 160), x=st.floats(-60, 160), seed=st.integers(0, 99))
def test_a_cell_anywhere_is_in_the_truth_where_the_image_shows_it(y: float, x: float, seed: int) -> None:
    whole = place(rbc(y, x, seed))
    smear = draw_cells([rbc(y, x, seed)], (100, 100), optics=QUIET)
    rows, columns = np.nonzero(whole.mask)
    rows, columns = rows + whole.origin[0], columns + whole.origin[1]
    shown = (rows >= 0) & (rows < 100) & (columns >= 0) & (columns < 100)
    assert (smear.cells > 0).sum() == shown.sum()
    assert len(smear.table) == int(shown.any())


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("empty_glass", (0, 0, 0)),
        ("two_touching_cells", (2, 0, 0)),
        ("clump_of_six", (6, 0, 0)),
        ("cell_on_four_tiles", (2, 0, 0)),
        ("cell_cut_by_the_edge", (3, 0, 0)),
        ("wbc_with_lobed_nucleus", (3, 1, 0)),
        ("every_white_cell", (0, 4, 0)),
        ("platelets_among_cells", (3, 0, 4)),
    ],
)
def test_scene_has_the_cells_of_its_name(name: str, counts: tuple[int, int, int]) -> None:
    assert tuple(SCENES[name]().counts.values()) == counts


def test_touching_cells_share_no_pixel_and_overlapping_ones_do() -> None:
    assert SCENES["two_touching_cells"]().table["cells_in_group"].tolist() == [1, 1]
    assert SCENES["two_overlapping_cells"]().table["overlap"].between(0.1, 0.35).all()
    assert SCENES["clump_of_six"]().table["cells_in_group"].tolist() == [6] * 6


def test_cell_on_four_tiles_lies_on_all_of_them() -> None:
    cells = SCENES["cell_on_four_tiles"]().cells
    tiles = [cells[y : y + TILE, x : x + TILE] for y in (0, TILE) for x in (0, TILE)]
    assert all((tile == 1).sum() > 0.15 * RBC_PX**2 for tile in tiles)


def test_slice_of_a_cell_is_a_cell_that_touches_the_edge() -> None:
    table = SCENES["cell_cut_by_the_edge"]().table
    assert table["touches_edge"].tolist() == [True, True, False]


def test_dark_field_is_dark_enough_to_be_brightened() -> None:
    assert SCENES["dark_field"]().image.max(axis=2).mean() < 140


def test_shipped_smear_is_large_and_has_a_bit_of_everything(shipped: Shipped) -> None:
    image, truth = shipped
    assert image.shape[0] >= 1500
    assert image.shape[1] >= 2000
    assert truth["counts"]["RBC"] > 1000
    assert set(truth["table"]["subtype"]) == {
        "erythrocyte",
        "neutrophil",
        "lymphocyte",
        "monocyte",
        "eosinophil",
        "platelet",
    }
    assert {1, 2, 3, 4, 5, 6} <= set(truth["table"]["cells_in_group"])
    assert truth["table"]["touches_edge"].sum() > 20


def test_shipped_smear_has_cells_on_the_borders_of_tiles(shipped: Shipped) -> None:
    cells = shipped[1]["cells"]
    across = np.concatenate([cells[511][cells[511] == cells[512]], cells[:, 511][cells[:, 511] == cells[:, 512]]])
    assert len(np.unique(across[across > 0])) > 20


def test_shipped_truth_counts_its_table(shipped: Shipped) -> None:
    truth = shipped[1]
    assert truth["counts"] == {name: int((truth["table"]["cell_type"] == name).sum()) for name in BUILTIN_TYPES}


def test_generator_still_draws_the_shipped_smear(shipped: Shipped) -> None:
    image, truth = shipped
    drawn = draw_shipped()
    assert drawn.counts == truth["counts"]
    assert np.array_equal(boxes_of(drawn.table), boxes_of(truth["table"]))
    np.testing.assert_array_equal(drawn.cells, truth["cells"])
    difference = np.abs(drawn.image.astype(int) - image)  # the file is a JPEG
    assert difference.mean() < 1.5
    assert np.percentile(difference, 99.9) < 16


def test_sample_data_are_layers_that_napari_takes() -> None:
    (smear,) = shipped_smear()
    assert smear[2] == "image"
    image, cells, types = shipped_smear_with_truth()
    assert image[0].shape[:2] == cells[0].shape == types[0].shape
    assert len(cells[1]["features"]) == cells[0].max()
