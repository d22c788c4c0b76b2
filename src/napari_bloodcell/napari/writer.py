"""Writers of napari's File menu: results and training sets of the selected layers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_bloodcell.core.cells import UNIDENTIFIED
from napari_bloodcell.core.errors import InputError, OutputError
from napari_bloodcell.core.files import make_folder, staged
from napari_bloodcell.learning.training_list import LIST
from napari_bloodcell.learning.training_set import TrainingSet
from napari_bloodcell.napari.preferences import annotator_name
from napari_bloodcell.results.store import write_result

if TYPE_CHECKING:
    from napari.layers import Image, Labels

    from napari_bloodcell.napari.pyramids import LayerData


def write_result_layers(path: str, layer_data: list[LayerData]) -> list[str]:
    """Write an image layer with its typed cells as a result folder, like that of the command line."""
    image_layer, cells_layer = _chosen(layer_data)
    return [str(write_cells(Path(path), cells_layer, image_layer))]


def write_training_layers(path: str, layer_data: list[LayerData]) -> list[str]:
    """Write the typed cells of an image layer as a training set."""
    image_layer, cells_layer = _chosen(layer_data)
    return [str(write_training_set(Path(path), cells_layer, image_layer))]


def write_cells(folder: Path, cells_layer: Labels, image_layer: Image) -> Path:
    """Write a result; of a stack, one folder per plane that has cells."""
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
    """Write the typed cells of a layer as a new training set.

    If a person typed some, only those: what a model said about the others is no ground truth.
    """
    from napari_bloodcell.corrections.journal import image_hash
    from napari_bloodcell.napari.layers.cells import adopt
    from napari_bloodcell.napari.layers.images import image_source
    from napari_bloodcell.napari.layers.results import planes_with_cells, segmented_plane

    adopt(cells_layer, image_layer)
    source = image_source(image_layer)
    make_folder(folder)
    if any(folder.iterdir()):
        raise OutputError(f"{folder} is not empty. Choose a new folder for the training set.")
    with staged(folder, last=LIST) as stage:
        made = TrainingSet(stage)
        for index in planes_with_cells(cells_layer):
            segmented = segmented_plane(cells_layer, index)
            given = segmented.table["cell_type"]
            typed = segmented.table[given.astype(bool) & (given != UNIDENTIFIED)]
            by_hand = typed[typed["type_source"] == "user"]
            chosen = by_hand if len(by_hand) else typed
            if chosen.empty:
                raise InputError(f"The cells of {cells_layer.name!r} have no types yet. Classify them first.")
            pixels = source.slide().pixels if source.is_large else source.plane(index).data
            made.add_segmentation(
                pixels,
                segmented,
                dict(zip(chosen.index.tolist(), chosen["cell_type"].tolist(), strict=True)),
                annotator=annotator_name() if len(by_hand) else "model",
                name=source.name + "".join(f" {i}" for i in index),
                image_sha256=image_hash(pixels),
            )
    return folder


def _chosen(layer_data: list[LayerData]) -> tuple[Image, Labels]:
    """Return the image and its cells among the layers to save."""
    from napari.layers import Image, Labels, Layer

    from napari_bloodcell.napari.layers.links import is_types

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
    """Return whether this layer is derived from the cells, as their types and the rings around some of them."""
    info = data[1].get("metadata", {}).get("napari_bloodcell", {})
    return isinstance(info, dict) and info.get("kind") not in (None, "cells")
