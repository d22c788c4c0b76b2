"""Writers of napari's File menu: results and training sets of the selected layers."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Final

from napari_bloodcell.core.cells import UNIDENTIFIED
from napari_bloodcell.core.errors import InputError, OutputError
from napari_bloodcell.core.files import csv_text, legal_name, make_folder, staged
from napari_bloodcell.results.store import write_result

if TYPE_CHECKING:
    from napari.layers import Image, Labels

    from napari_bloodcell.napari.pyramids import LayerData


TRAINING_LIST: Final = "cutouts.csv"
"""Lists the cutouts of a training set: file, class, image, cell, and who typed it."""


def write_result_layers(path: str, layer_data: list[LayerData]) -> list[str]:
    """Write an image layer with its typed cells as the result folder that the command line writes too."""
    image_layer, cells_layer = _chosen(layer_data)
    return [str(write_cells(Path(path), cells_layer, image_layer))]


def write_training_layers(path: str, layer_data: list[LayerData]) -> list[str]:
    """Write the typed cells of an image layer as cutouts to train on: a folder per class, and a list."""
    image_layer, cells_layer = _chosen(layer_data)
    return [str(write_training_set(Path(path), cells_layer, image_layer))]


def write_cells(folder: Path, cells_layer: Labels, image_layer: Image) -> Path:
    """Write a result; of a stack one folder per plane that has cells.

    Raises
    ------
    BloodCellError
        If the cells have no types, or the folder cannot be written to.
    """
    from napari_bloodcell.napari.layers.cells import adopt
    from napari_bloodcell.napari.layers.images import image_source, plane_number
    from napari_bloodcell.napari.layers.results import planes_with_cells, result_of, save_large
    from napari_bloodcell.results.pictures import pictures_of_smear

    adopt(cells_layer, image_layer)
    source = image_source(image_layer)
    if source.is_large:
        save_large(folder, cells_layer, source)
        return folder
    for index in planes_with_cells(cells_layer):
        result = result_of(cells_layer, index)
        plane = source.plane(index)
        target = folder / f"plane_{plane_number(index, source.stack_shape):04d}" if index else folder
        write_result(result, target, image=plane, pictures=pictures_of_smear(result, plane))
    return folder


def write_training_set(folder: Path, cells_layer: Labels, image_layer: Image) -> Path:
    """Write ``<class>/<image>_<cell>.png`` of every typed cell, and the list `TRAINING_LIST`.

    Cells that a person typed are written alone where there are any: what a model said of the others is no truth.

    Raises
    ------
    BloodCellError
        If no cell has a type, or the folder cannot be written to.
    """
    from PIL import Image as Picture

    from napari_bloodcell.corrections.journal import image_hash
    from napari_bloodcell.napari.layers.cells import adopt
    from napari_bloodcell.napari.layers.images import image_source
    from napari_bloodcell.napari.layers.results import planes_with_cells, segmented_plane
    from napari_bloodcell.stages.cutouts import cut_out

    adopt(cells_layer, image_layer)
    source = image_source(image_layer)
    make_folder(folder)
    if any(folder.iterdir()):
        raise OutputError(f"{folder} is not empty. Choose a new folder for the training set.")
    rows: list[list[object]] = [["file", "class", "image", "image_sha256", "cell", "type_source"]]
    with staged(folder, last=TRAINING_LIST) as stage:
        for index in planes_with_cells(cells_layer):
            segmented = segmented_plane(cells_layer, index)
            given = segmented.table["cell_type"]
            typed = segmented.table[given.astype(bool) & (given != UNIDENTIFIED)]
            by_hand = typed[typed["type_source"] == "user"]
            chosen = by_hand if len(by_hand) else typed
            if chosen.empty:
                raise InputError(f"The cells of {cells_layer.name!r} have no types yet. Classify them first.")
            pixels = source.slide().pixels if source.is_large else source.plane(index).data
            types = dict(zip(chosen.index.tolist(), chosen["cell_type"].tolist(), strict=True))
            digest = image_hash(pixels)
            for cell in types:
                cutout = cut_out(pixels, segmented.cells, chosen.loc[[cell]])[0]
                name = f"{legal_name(types[cell])}/{legal_name(source.name)}_{cell:06d}.png"
                (stage / name).parent.mkdir(exist_ok=True)
                Picture.fromarray(cutout).save(stage / name)
                words = [csv_text(word) for word in (name, types[cell], source.name)]
                rows.append([*words, digest, cell, chosen.at[cell, "type_source"]])
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        (stage / TRAINING_LIST).write_text(text.getvalue(), encoding="utf-8", newline="")
    return folder


def _chosen(layer_data: list[LayerData]) -> tuple[Image, Labels]:
    """Return the image and its cells among what is to be saved."""
    from napari.layers import Image, Labels, Layer

    from napari_bloodcell.napari.layers.cells import is_types

    layers = [Layer.create(*data) for data in layer_data if not _is_derived(data)]
    images = [layer for layer in layers if isinstance(layer, Image)]
    labels = [layer for layer in layers if isinstance(layer, Labels) and not is_types(layer)]
    if len(images) != 1 or len(labels) != 1:
        raise OutputError(
            f"{len(images)} image and {len(labels)} cells layers were chosen. Select one smear and its cells, and use "
            "File ▸ Save Selected Layers."
        )
    if "cell_type" not in labels[0].features.columns:
        raise OutputError(f"{labels[0].name!r} has no table of cells. Classify it first.")
    return images[0], labels[0]


def _is_derived(data: LayerData) -> bool:
    """Return whether this is a typed layer: it follows from the cells and is written with them."""
    info = data[1].get("metadata", {}).get("napari_bloodcell", {})
    return isinstance(info, dict) and info.get("kind") == "types"
