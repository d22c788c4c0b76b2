"""Layers of cells of known truth for the docks that correct and train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from napari_bloodcell.core.cells import measure_cells
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import links
from tests.fakes import disc_image

if TYPE_CHECKING:
    from napari.layers import Labels
    from numpy.typing import NDArray

CENTRES = [(30.0, 30.0), (30.0, 80.0), (30.0, 130.0), (90.0, 30.0), (90.0, 80.0), (90.0, 130.0)]
TYPES = ["RBC", "WBC", "RBC", "RBC", "platelet", "RBC"]
PROBABILITIES = [0.9, 0.8, 0.6, 0.95, 0.7, 0.99]
SHAPE = (120, 160)
PITCH, N_SIDE = 40, 1024
"""Of `GridLevel`: distance of the cells, and cells in a row."""


def label_image(centres: list[tuple[float, float]] = CENTRES, radius: float = 12.0) -> NDArray[np.int32]:
    """Discs with the ids 1..N."""
    cells = np.zeros(SHAPE, np.int32)
    yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for i, (y, x) in enumerate(centres, start=1):
        cells[(yy - y) ** 2 + (xx - x) ** 2 <= radius**2] = i
    return cells


def typed_table(cells: NDArray[np.int32]) -> pd.DataFrame:
    """The table of `label_image`, typed by a model."""
    table = measure_cells(cells)
    table["cell_type"] = TYPES[: len(table)]
    table["probability"] = PROBABILITIES[: len(table)]
    return table


def add_smear(viewer: Any, *, name: str = "smear", brightness: int = 0) -> Labels:
    """Add an image of six cells, its cells layer, typed, and its types layer; return the cells layer."""
    noise = np.random.default_rng(brightness).normal(0, 5, (*SHAPE, 3))  # no two cells have the same pixels
    image = np.clip(disc_image(CENTRES, SHAPE) - brightness + noise, 1, 255).astype(np.uint8)
    image_layer = viewer.add_image(image, name=name, rgb=True)
    cells = label_image()
    layer = layers.add_cells(viewer, image_layer, cells=cells)
    links.info_of(layer)["calibration"] = {
        "rbc_diameter_px": 24.0,
        "background_rgb": (230.0, 230.0, 230.0),
        "mean_brightness": 220.0,
        "source": "given",
    }
    links.info_of(layer)["models"] = {"classify": {"name": "embedded", "sha256": "f" * 64}}
    layers.set_table(layer, typed_table(cells))
    layers.add_types(viewer, layer)
    return layer


class GridLevel:
    """One level of a lazy label image of 40,960², over a million round cells in rows: nothing of it is in memory."""

    dtype, ndim, chunks = np.dtype(np.int32), 2, (512, 512)

    def __init__(self, step: int) -> None:
        self.step = step
        self.shape = (PITCH * N_SIDE // step,) * 2
        self.size = self.shape[0] ** 2

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[np.int32]:
        keys = [k for k in (key if isinstance(key, tuple) else (key,)) if k is not Ellipsis]
        keys += [slice(None)] * (2 - len(keys))
        y, x = (np.arange(n)[k] * self.step for n, k in zip(self.shape, keys, strict=True))
        scalar = [np.ndim(v) == 0 for v in (y, x)]
        y, x = np.atleast_1d(y)[:, None], np.atleast_1d(x)[None]
        inside = (y % PITCH - PITCH // 2) ** 2 + (x % PITCH - PITCH // 2) ** 2 <= 16**2
        ids = np.where(inside, y // PITCH * N_SIDE + x // PITCH + 1, 0).astype(np.int32)
        return ids[tuple(0 if one else slice(None) for one in scalar)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[...].astype(dtype or np.int32)


def grid_features() -> pd.DataFrame:
    """The features of the cells of `GridLevel`."""
    n = N_SIDE**2
    row, column = np.divmod(np.arange(n), N_SIDE)

    def with_background(values: NDArray[Any], first: Any) -> NDArray[Any]:
        return np.concatenate([np.array([first], values.dtype), values])

    text = {"cell_type": np.where(np.arange(n) % 50 == 0, "WBC", "RBC"), "type_source": np.full(n, "model")}
    boxes = {"y0": row * PITCH + 4, "x0": column * PITCH + 4, "y1": row * PITCH + 37, "x1": column * PITCH + 37}
    return pd.DataFrame(
        {
            "index": np.arange(n + 1),
            **{
                name: pd.Series(with_background(values.astype(object), None), dtype=object)
                for name, values in text.items()
            },
            "probability": with_background(np.random.default_rng(0).uniform(0.5, 1, n), np.nan),
            "area_px": with_background(np.full(n, 797), 0),
            **{f"bbox_{side}": with_background(values, 0) for side, values in boxes.items()},
            "centroid_y": with_background(row * PITCH + 20.0, 0.0),
            "centroid_x": with_background(column * PITCH + 20.0, 0.0),
        }
    )


def add_million_cells(viewer: Any) -> Labels:
    """Add a cells layer of 1,048,576 cells on a multiscale image of 40,960², and its types layer."""
    from napari.layers import Labels as LabelsLayer

    image = viewer.add_image(np.full((256, 256, 3), 200, np.uint8), rgb=True, name="slide", scale=(160, 160))
    info = {"kind": "cells", "image": "slide", "image_id": str(image.unique_id)}
    levels = [GridLevel(2**k) for k in range(7)]
    layer = LabelsLayer(
        levels, multiscale=True, name="slide cells", features=grid_features(), metadata={links.KEY: info}
    )
    viewer.add_layer(layer)
    layers.add_types(viewer, layer)
    return layer
