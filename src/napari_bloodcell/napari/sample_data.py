"""Sample data for napari's File menu, as layer data; needs no napari."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_bloodcell.core.cells import BUILTIN_TYPES, TYPE_COLOURS
from napari_bloodcell.models.weights import SAMPLE, download
from napari_bloodcell.synthetic import load_shipped

if TYPE_CHECKING:
    from napari_bloodcell.napari.pyramids import LayerData


def shipped_smear() -> list[LayerData]:
    """Return the shipped smear as one RGB image layer."""
    image, _ = load_shipped()
    return [(image, {"name": "smear", "rgb": True}, "image")]


def shipped_smear_with_truth() -> list[LayerData]:
    """Return the shipped smear, its true cells with their table as features, and their types."""
    image, truth = load_shipped()
    features = truth["table"].reset_index(names="index")
    colours = {None: "transparent"} | {i + 1: TYPE_COLOURS[name] for i, name in enumerate(BUILTIN_TYPES)}
    return [
        (image, {"name": "smear", "rgb": True}, "image"),
        (truth["cells"], {"name": "true cells", "features": features, "visible": False}, "labels"),
        (truth["types"], {"name": "true types", "colormap": colours, "opacity": 0.4}, "labels"),
    ]


def bccd_field() -> list[LayerData]:
    """Return a real field, downloaded on first use; raise `DownloadError` if that fails."""
    from PIL import Image

    with Image.open(download(SAMPLE.name)) as picture:
        image = np.asarray(picture.convert("RGB"))
    return [(image, {"name": "BCCD field", "rgb": True}, "image")]
