"""Layers as napari-omero 0.6 makes them (`plugins/loaders.py`, `get_omero_metadata`): a channel each, (T, Z, Y, X)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel

import napari_bloodcell as nb
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.omero import id_of, merge_channels
from tests.fakes import BrightnessClassifier, ThresholdGenerator
from tests.results.test_store import a_result

if TYPE_CHECKING:
    from napari.layers import Image


def opened(
    pixels: np.ndarray, *, um: float | None = 0.25, levels: int = 1, colours: tuple[str, ...] = ("red", "green", "blue")
) -> tuple[ViewerModel, list[Image]]:
    """Return a viewer with the layers of an image (Y, X, C)."""
    size = {"@type": "TBD#LengthI", "Unit": "MICROMETER", "Symbol": "µm", "Value": um}
    sizes = {} if um is None else {"PhysicalSizeX": size, "PhysicalSizeY": size}
    about = {"@id": 42, "@type": "…#Image", "Name": "smear.svs", "Pixels": {"@id": 7, **sizes}}
    stored = [da.from_array(np.moveaxis(pixels[:: 2**i, :: 2**i], -1, 0)[None, :, None]) for i in range(levels)]
    meta: dict[str, Any] = {
        "channel_axis": 1,
        "colormap": list(colours),
        "contrast_limits": [[0.0, 255.0]] * pixels.shape[-1],
        "name": [f"42: {c}" for c in range(pixels.shape[-1])],
        "visible": [True] * pixels.shape[-1],
        "scale": [1, 1, um or 1, um or 1],
        "metadata": {"omero": about},
        "axis_labels": ("t", "z", "y", "x"),
    }
    viewer = ViewerModel()
    return viewer, viewer.add_image(stored if levels > 1 else stored[0], **meta)


def test_the_channels_become_one_smear_with_its_units_name_and_id(field: np.ndarray) -> None:
    field = np.stack([field[..., 0], field[..., 1] // 2, field[..., 2] // 3], -1)
    viewer, channels = opened(field)
    viewer.layers.selection.active = channels[1]
    merged = merge_channels(viewer)
    assert [layer.name for layer in viewer.layers] == ["42: smear.svs"]
    assert np.array_equal(merged.data, field)
    assert merged.scale.tolist() == [0.25, 0.25]
    assert {str(unit) for unit in merged.units} == {"micrometer"}
    assert id_of(merged) == 42


def test_what_is_found_in_it_has_its_scale_and_is_saved_under_its_name(field: np.ndarray, tmp_path: Any) -> None:
    viewer, _ = opened(field)
    image = merge_channels(viewer)
    recipe = nb.Recipe(segment=nb.SegmentParams(rbc_diameter_px=24, tile_size=128))
    models = {"generator": ThresholdGenerator(), "classifier": BrightnessClassifier()}
    nb.napari.analyse_layer(image, viewer=viewer, recipe=recipe, **models)
    cells = viewer.layers["42: smear.svs cells"]
    assert cells.scale.tolist() == [0.25, 0.25]
    assert links.image_layer_for(viewer, cells) is image
    result = nb.read_result(nb.napari.save_result(cells, tmp_path / "result"))
    assert (result.image_name, result.pixel_size_um) == ("42: smear.svs", 0.25)
    assert result.counts["RBC"] == 8


def test_a_pyramid_stays_one_and_is_read_where_it_is_sliced(field: np.ndarray) -> None:
    viewer, _ = opened(field, levels=2, um=None)
    merged = merge_channels(viewer)
    assert merged.multiscale
    assert [level.shape for level in merged.data] == [(256, 256, 3), (128, 128, 3)]
    assert np.array_equal(merged.data[0][10:20, 30:50], field[10:20, 30:50])
    assert {str(unit) for unit in merged.units} == {"pixel"}


@pytest.mark.parametrize(
    ("colours", "says"),
    [(("cyan", "green", "magenta"), "not shown in red, green and blue"), (("red", "green"), r"2 channels \(uint8\)")],
)
def test_dyes_are_refused(field: np.ndarray, colours: tuple[str, ...], says: str) -> None:
    viewer, _ = opened(field[..., : len(colours)], colours=colours)
    with pytest.raises(InputError, match=says):
        merge_channels(viewer)


def test_other_layers_are_none_of_omero(field: np.ndarray) -> None:
    viewer = ViewerModel()
    viewer.add_image(field, rgb=True)
    with pytest.raises(InputError, match="No layer of an OMERO image"):
        merge_channels(viewer)


def test_the_script_that_sends_cells_back_makes_a_polygon_of_each_piece() -> None:
    """Its connection to a server is not tested."""
    from runpy import run_path

    result = a_result()
    script = run_path(str(Path(nb.__path__[0]).parents[1] / "docs" / "examples" / "to_omero.py"))
    found = script["polygons_of"](result)
    assert [name for name, _, _ in found][:2] == ["1 RBC", "2 WBC"]
    assert found[0][1] == "#e0312f"
    corners = [[float(v) for v in point.split(",")] for point in found[0][2].split()]
    ys, xs = np.nonzero(result.cells == 1)
    assert sorted(map(tuple, corners)) == sorted(
        (x, y) for x in (xs.min(), xs.max() + 1) for y in (ys.min(), ys.max() + 1)
    )
