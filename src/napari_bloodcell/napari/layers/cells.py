"""The contract between the docks: a smear's results as layers. Call everything here on the GUI thread.

The **cells layer** is a Labels layer `"<image> cells"` with ids 1..N. Its `features` hold the cell table (column
`index` = id, row 0 = background), its ``metadata["napari_bloodcell"]`` the provenance. The **types layer**
`"<image> types"` is derived from it by a lookup table. Both share the image's placement in the world.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final, Protocol

import numpy as np
import pandas as pd
from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray

from napari_bloodcell.core.cells import UNIDENTIFIED, full_name, kind_names, type_lut, type_names
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.params import Recipe
from napari_bloodcell.core.protocols import CellClassifier
from napari_bloodcell.corrections import edits
from napari_bloodcell.models.load import subtype_records
from napari_bloodcell.napari.layers.features import INDEX, boxes_in, to_features, with_user_types, write_types
from napari_bloodcell.napari.layers.images import image_source
from napari_bloodcell.napari.layers.keeper import keep_on_disk
from napari_bloodcell.napari.layers.links import (
    KEY,
    cells_layer_for,
    full_resolution,
    image_layer_for,
    info_of,
    levels_of,
    names_of,
    note_settings,
    table_of,
    types_layer_for,
)
from napari_bloodcell.napari.layers.look import (
    CELLS_OPACITY,
    LAST_KIND,
    colours_shown,
    follow_view,
    kind_code,
    lay_over,
    placement_of,
    pyramid_of,
    show_as_cells,
    show_status_of,
    show_tools_later,
    type_colormap,
)
from napari_bloodcell.napari.layers.private import read_again
from napari_bloodcell.napari.layers.types import TypedView, TypeLookup
from napari_bloodcell.results.recipes import portable, versions
from napari_bloodcell.stages.segment import Segmentation

_LOOKUP: Final = "napari_bloodcell_lookup"


class _Typed(Protocol):
    """What is shown of a typing run; `Classification` and `TypedCells` implement it."""

    @property
    def table(self) -> pd.DataFrame: ...
    @property
    def names(self) -> list[str]: ...


def add_cells(
    viewer: ViewerModel,
    image_layer: Image,
    *,
    cells: NDArray[np.int32] | None = None,
    name: str | None = None,
    visible: bool = True,
) -> Labels:
    """Add a cells layer over an image layer and return it.

    `cells` has shape (..., Y, X), ids 1..N; None: an empty layer. Adding a layer hidden and showing it later takes the
    event loop half as long at a time.
    """
    shape = image_source(image_layer).shape
    if cells is None:
        cells = np.zeros(shape, np.int32)
    elif cells.shape != shape:
        raise InputError(f"Cells of the shape {cells.shape} do not belong to an image of {shape}.")
    layer = Labels(
        pyramid_of(cells, is_pyramid=image_layer.multiscale),
        name=name or f"{image_layer.name} cells",
        metadata={KEY: {"kind": "cells", "image": image_layer.name, "image_id": str(image_layer.unique_id)}},
        opacity=CELLS_OPACITY,
        visible=visible,
        **placement_of(image_layer),
    )
    layer.metadata[_LOOKUP] = TypeLookup(np.zeros(1, np.uint8))
    show_as_cells(layer, layer.metadata[_LOOKUP])
    follow_view(viewer, layer)
    show_tools_later(layer)
    viewer.add_layer(layer)
    return layer


def add_segmentation(
    viewer: ViewerModel,
    image_layer: Image,
    segmentation: Segmentation,
    recipe: Recipe | None = None,
    *,
    image_sha256: str | None = None,
) -> Labels:
    """Show the segmentation of a whole image in its cells layer, made if there is none, and return the layer."""
    layer = cells_layer_for(viewer, image_layer)
    if layer is None:
        layer = add_cells(viewer, image_layer, cells=segmentation.cells)
    else:
        full_resolution(layer)[...] = segmentation.cells
        layer.refresh(extent=False)
    note_segmentation(layer, segmentation, recipe or Recipe(), image_sha256=image_sha256)
    set_table(layer, segmentation.table)
    return layer


def adopt(layer: Labels, image_layer: Image) -> None:
    """Turn any Labels layer into the cells layer of an image, keeping metadata it already has.

    Raises `InputError` if the shapes differ.
    """
    shape, wanted = full_resolution(layer).shape, image_source(image_layer).shape
    if tuple(shape) != wanted:
        raise InputError(
            f"{layer.name!r} has the shape {tuple(shape)}, the image {image_layer.name!r} {wanted}: they do not "
            "belong together. Choose the image that the cells were found in."
        )
    known = {"kind": "cells", "image": image_layer.name, "image_id": str(image_layer.unique_id)}
    layer.metadata[KEY] = {**info_of(layer), **known}
    lay_over(layer, image_layer)
    lookup_of(layer)


def relink(viewer: ViewerModel, cells_layer: Labels) -> Labels | None:
    """Link a cells layer that was read from a file to its image in this viewer, and rebuild its types layer."""
    image_layer = image_layer_for(viewer, cells_layer)
    if image_layer is not None:
        adopt(cells_layer, image_layer)
    keep_on_disk(cells_layer, lookup_of(cells_layer))
    types = types_layer_for(viewer, cells_layer)
    if types is not None:
        level = types.data[0] if types.multiscale else types.data
        if isinstance(level, TypedView):
            return types
        viewer.layers.remove(types)
    if "cell_type" not in cells_layer.features.columns:
        return None
    return add_types(viewer, cells_layer)


def note_segmentation(
    layer: Labels, segmentation: Segmentation, recipe: Recipe, *, image_sha256: str | None = None
) -> None:
    """Record settings, versions, model and calibration of a segmentation in the metadata of its cells layer."""
    info = info_of(layer)
    old = info.get("recipe") or {}
    recipe = recipe.as_used(segment=segmentation.precision)
    info |= {
        "kind": "cells",
        "recipe": {**old, **portable(recipe).model_dump(mode="json", include={"segment", "seed"})},
        "models": {**info.get("models", {}), "segment": asdict(segmentation.model)},
        "calibration": asdict(segmentation.calibration),
        "names": names_of(layer),
        "image_sha256": image_sha256,
        "device": segmentation.device,
        "versions": versions(),
        "failed_tiles": [asdict(tile) for tile in segmentation.failed_tiles],
        "warnings": list(segmentation.warnings),
    }


def add_types(
    viewer: ViewerModel,
    cells_layer: Labels,
    classification: _Typed | None = None,
    *,
    recipe: Recipe | None = None,
    classifier: CellClassifier | None = None,
) -> Labels:
    """Show the types of cells in a layer derived from the cells layer, and return it.

    `classification` replaces the types in the table; `recipe` and `classifier` are recorded in the metadata.
    """
    info = info_of(cells_layer)
    if recipe is not None:
        note_settings(cells_layer, "classify", portable(recipe).classify)
    if classifier is not None:
        if recipe is not None:
            info["recipe"]["classify"]["precision"] = getattr(classifier, "precision", recipe.classify.precision)
        model = {"name": classifier.name, "sha256": classifier.sha256}
        told = subtype_records(recipe.classify.subtypes) if recipe is not None else {}
        info["models"] = {**info.get("models", {}), "classify": model, **told}
    if classification is not None:
        info["names"] = list(classification.names)
        set_table(cells_layer, with_user_types(cells_layer.features, classification.table))
    layer = types_layer_for(viewer, cells_layer)
    lookup = lookup_of(cells_layer)
    show_as_cells(cells_layer, lookup)  # not done yet if it was read from a file; classes may have changed
    if layer is not None:
        layer.colormap = DirectLabelColormap(color_dict=colours_shown(cells_layer))
        layer.metadata[KEY]["names"] = names_of(cells_layer)
        return layer
    levels: list[Any] = [TypedView(cells_layer, lookup, i) for i in range(len(levels_of(cells_layer)))]
    image = info.get("image") or cells_layer.name
    about = {"kind": "types", "image": image, "cells": cells_layer.name, "names": names_of(cells_layer)}
    layer = Labels(
        levels if cells_layer.multiscale else levels[0],
        name=f"{image} types",
        colormap=DirectLabelColormap(color_dict=colours_shown(cells_layer)),
        metadata={KEY: {**about, "cells_id": str(cells_layer.unique_id)}},
        opacity=0.45,
        visible=False,  # the cells have these colours already
        **placement_of(cells_layer),
    )
    layer.editable = False
    lookup.show_in(layer)
    _follow_edits(cells_layer, lookup)
    follow_view(viewer, cells_layer)
    show_status_of(layer, cells_layer)
    show_tools_later(layer)
    if cells_layer in viewer.layers:  # beneath the cells, whose outlines stay visible and respond to the mouse
        viewer.layers.insert(viewer.layers.index(cells_layer), layer)
        viewer.layers.selection.active = cells_layer
    else:
        viewer.add_layer(layer)
    return layer


def as_layer_data(
    cells: NDArray[np.int32], table: pd.DataFrame, info: dict[str, Any], place: dict[str, Any]
) -> list[tuple[Any, dict[str, Any], str]]:
    """Return cells and types as layer data, for readers; `relink` links the layers that napari makes of them."""
    names = list(info["names"])
    codes = type_lut(table, names, int(cells.max(initial=0)))
    image = info["image"]
    types_info = {"kind": "types", "image": image, "cells": f"{image} cells", "names": names}
    types = {
        "name": f"{image} types",
        "colormap": type_colormap(names),
        "opacity": 0.45,
        "visible": False,
        "metadata": {KEY: types_info},
        **place,
    }
    shown = {
        "name": f"{image} cells",
        "features": to_features(table),
        "opacity": CELLS_OPACITY,
        "metadata": {KEY: info, _LOOKUP: TypeLookup(codes, kind_lut(table, info))},
        **place,
    }
    levels = pyramid_of(cells, is_pyramid=False)
    typed = [codes[level] for level in levels] if isinstance(levels, list) else codes[cells]
    return [(typed, types, "labels"), (levels, shown, "labels")]


def set_table(cells_layer: Labels, table: pd.DataFrame) -> None:
    """Store a cell table (index = id) in the features of its layer and show the types."""
    info = info_of(cells_layer)
    known = names_of(cells_layer)
    found = [t for t in table["cell_type"].unique() if t and t not in known]
    if found:  # "unidentified" stays the last, as `type_names` has it
        info["names"] = type_names([n for n in [*known, *found] if n != UNIDENTIFIED])
    cells_layer.features = to_features(table)
    lookup_of(cells_layer).replace(type_lut(table, names_of(cells_layer)), kind_lut(table, info_of(cells_layer)))


def set_features(cells_layer: Labels, features: pd.DataFrame) -> None:
    """Restore features that the layer had earlier, and show their types."""
    cells_layer.features = features
    codes, kinds = np.zeros(1, np.uint8), None
    if "cell_type" in features.columns:
        table = table_of(cells_layer, ("cell_type", "subtype"))
        codes, kinds = type_lut(table, names_of(cells_layer)), kind_lut(table, info_of(cells_layer))
    lookup_of(cells_layer).replace(codes, kinds)


def kind_lut(table: pd.DataFrame, info: dict[str, Any]) -> NDArray[np.uint8]:
    """Return the lookup table label id → code of its kind, (N + 1,) uint8, 0 for none.

    `info` is the plugin's metadata of the layer; kinds that are not in it are added.
    """
    lut = np.zeros(int(table.index.max() if len(table) else 0) + 1, np.uint8)
    if "subtype" in table:
        told = table.loc[(table["subtype"].fillna("") != "").to_numpy(bool), ["cell_type", "subtype"]]
        names = told["cell_type"].astype(str) + ": " + told["subtype"].astype(str)
        lut[told.index.to_numpy(np.int64)] = names.map(_kind_codes(info, names.unique())).to_numpy(np.uint8)
    return lut


def _kind_codes(info: dict[str, Any], names: Iterable[str]) -> dict[str, int]:
    """Return the codes of kinds by full name, adding those that are not known yet; 0 if there are too many."""
    kinds = list(info.get("kinds") or kind_names())
    fresh = [name for name in names if name not in kinds]
    if fresh:
        kinds = info["kinds"] = [*kinds, *fresh]
    room = LAST_KIND - len(info.get("names") or type_names())
    return {name: kind_code(k) if k < room else 0 for k, name in enumerate(kinds)}


def colour_by_kind(viewer: ViewerModel, cells_layer: Labels, by_kind: bool) -> None:
    """Give cells the colours of their kinds, or of their types."""
    info_of(cells_layer)["by_kind"] = by_kind
    show_as_cells(cells_layer, lookup_of(cells_layer))
    if types_layer_for(viewer, cells_layer) is not None:
        add_types(viewer, cells_layer)  # recolours it
    refresh_cells(cells_layer)


def set_types(
    cells_layer: Labels,
    ids: Sequence[int] | NDArray[np.integer[Any]],
    cell_type: str | Sequence[str] | NDArray[np.object_],
    *,
    probability: float | Sequence[float] = 1.0,
    source: str | Sequence[str] = "user",
    **columns: Any,
) -> None:
    """Set the type of some cells, one for all or one for each; constant time, however many cells the layer has.

    `columns` are others of the table that belong to the type: those of the kind, and `abnormal`. Ids that are not in
    the table are skipped. Raises `InputError` if a type is not in `names_of`.
    """
    names = names_of(cells_layer)
    wanted = np.atleast_1d(np.asarray(ids, np.int64))
    types = np.broadcast_to(np.asarray(cell_type, object), wanted.shape)
    unknown = sorted({str(t) for t in types} - {*names, ""})
    if unknown:
        raise InputError(f"There is no type {', '.join(map(repr, unknown))}; there are {', '.join(names)}.")
    written = {"cell_type": types, "probability": probability, "type_source": source, **columns}
    features = cells_layer.features
    rows, there = write_types(features, wanted, written)
    codes = {"": 0, **{name: code for code, name in enumerate(names, start=1)}}
    code = np.array([codes[str(t)] for t in types[there]], np.uint8)
    kinds = features["subtype"].to_numpy(object)[rows] if "subtype" in features.columns else np.full(len(rows), "")
    told = [full_name(str(t), k) if isinstance(k, str) and k else "" for t, k in zip(types[there], kinds, strict=True)]
    known = _kind_codes(info_of(cells_layer), [name for name in dict.fromkeys(told) if name])
    kind = np.array([known.get(name, 0) for name in told], np.uint8)
    lookup_of(cells_layer).change(wanted[there], code, kind=kind, boxes=boxes_in(features, rows))
    cells_layer.events.features()


def replace_rows(cells_layer: Labels, old: pd.DataFrame, new: pd.DataFrame) -> None:
    """Replace rows of the cell table after an edit of the cells, and the codes of their types and kinds."""
    features = cells_layer.features.set_index(INDEX, drop=False)
    rows = (to_features(rows).set_index(INDEX, drop=False).drop(index=0) for rows in (old, new))
    cells_layer.features = edits.replace_rows(features, *rows).reset_index(drop=True)
    lookup, names, kinds = lookup_of(cells_layer), names_of(cells_layer), kind_lut(new, info_of(cells_layer))
    lookup.change(old.index.difference(new.index).to_numpy(), 0)
    for name, ids in new.groupby("cell_type").groups.items():
        code = names.index(str(name)) + 1 if name in names else 0
        lookup.change(ids.to_numpy(), code, kind=kinds[ids.to_numpy()])


def set_cells_in_region(cells_layer: Labels, cells_in_region: pd.Series[int]) -> None:
    """Store how many cells each region counts as; types and drawing stay."""
    features = cells_layer.features
    counts = cells_in_region.reindex(features[INDEX]).fillna(1).to_numpy(np.int64)
    counts[features[INDEX].to_numpy() == 0] = 0
    features["cells_in_region"] = counts
    cells_layer.events.features()


def lookup_of(cells_layer: Labels) -> TypeLookup:
    """Return the lookup table of a cells layer, built from its cell table if there is none yet."""
    lookup = cells_layer.metadata.get(_LOOKUP)
    if isinstance(lookup, TypeLookup):
        return lookup
    codes, kinds = np.zeros(1, np.uint8), None
    with suppress(InputError, KeyError):
        table = table_of(cells_layer, ("cell_type", "subtype"))
        codes, kinds = type_lut(table, names_of(cells_layer)), kind_lut(table, info_of(cells_layer))
    lookup = cells_layer.metadata[_LOOKUP] = TypeLookup(codes, kinds)
    show_as_cells(cells_layer, lookup)
    return lookup


def refresh_cells(cells_layer: Labels) -> None:
    """Redraw cells and types after the label image was written to."""
    read_again(cells_layer)
    lookup_of(cells_layer).refresh()


def _follow_edits(cells_layer: Labels, lookup: TypeLookup) -> None:
    """Redraw the types whenever cells are painted."""
    for event in (cells_layer.events.paint, cells_layer.events.data):
        event.disconnect(lookup.refresh)
        event.connect(lookup.refresh)
