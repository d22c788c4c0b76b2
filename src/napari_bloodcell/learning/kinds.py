"""Learning the kinds of a type: examples are cells with what lies around them, and training goes on from a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from napari_bloodcell.core.cells import BUILTIN_TYPES, WBC, box_of
from napari_bloodcell.core.errors import TrainingError
from napari_bloodcell.core.params import TrainParams
from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.learning.dataset import Parts, concatenate
from napari_bloodcell.learning.reports import Training, iter_report
from napari_bloodcell.learning.training_list import LIST, TypedCell
from napari_bloodcell.learning.training_set import Added, TrainingSet
from napari_bloodcell.models import weights
from napari_bloodcell.models.load import load_subtypes
from napari_bloodcell.stages.classify import SegmentedSmear
from napari_bloodcell.stages.cutouts import cut_surroundings

if TYPE_CHECKING:  # loads torch
    from napari_bloodcell.models.cnn.subtypes import SubtypeModel

CANVAS_IN_WINDOWS: Final = 1.375
"""Side of what is kept around a cell, in windows of the model, so that training can shift and turn it."""
START: Final = {WBC: "differential"}
"""From which model training goes on for the kinds of a type; others go on from that of white cells."""


def kind_set(folder: str | Path, of: str, shares: tuple[float, float, float] = (0.75, 0.15, 0.10)) -> TrainingSet:
    """Return the part of a training set that holds the kinds of a type, empty if there is none yet.

    `folder` is the training set, or that part of it.
    """
    folder = Path(folder)
    inner = folder / f"kinds of {of}"
    is_itself = folder.name == inner.name and (folder / LIST).is_file()
    return TrainingSet(folder if is_itself else inner, shares=shares)


def add_kinds(
    kept: TrainingSet,
    image: NDArray[np.uint8],
    segmentation: SegmentedSmear,
    of: str,
    *,
    annotator: str,
    name: str,
    image_sha256: str,
) -> Added:
    """Add the cells of a smear whose kind a person told to a `kind_set`; raises as `TrainingSet.add`."""
    table, calibration = segmentation.table, segmentation.calibration
    mine = table[(table["cell_type"] == of) & (table["subtype_source"] == "user") & (table["subtype"] != "")]
    view = load_subtypes(start_of(of), "cpu").view
    side = round(CANVAS_IN_WINDOWS * view["size"] * calibration.rbc_diameter_px / view["rbc_diameter_px"])
    around = cut_surroundings(image, mine, calibration, side)
    return kept.add(
        TypedCell(
            np.maximum(pixels, 1),  # black is what lies outside of a picture
            str(kind),
            annotator,
            image=name,
            image_sha256=image_sha256,
            cell=str(cell),
            bbox=box_of(mine, cell),
            rbc_diameter_px=calibration.rbc_diameter_px,
            glass_rgb=calibration.background_rgb,
            red_rgb=calibration.red_rgb,
        )
        for cell, kind, pixels in zip(mine.index.tolist(), mine["subtype"], around, strict=True)
    )


def start_of(of: str) -> str:
    """Return the name of the model from which training goes on for the kinds of a type."""
    name = START.get(of, START[WBC])
    return name if name in weights.SUBTYPES else START[WBC]


def iter_train_kinds(
    data: Parts | TrainingSet | str | Path,
    of: str,
    *,
    params: TrainParams,
    start: str | Path | SubtypeModel | None = None,
    should_stop: Callable[[], bool],
) -> Generator[Progress, None, Training]:
    """Train a model of the kinds of a type; as `train.iter_train`, which says more.

    `data` is a training set with `kind_set`, that part itself, or parts of canvases that `TrainingSet.parts` made.
    """
    begin = time.monotonic()
    from napari_bloodcell.models.cnn.kind_tuning import fit_kinds
    from napari_bloodcell.models.cnn.subtypes import SubtypeModel

    if of not in BUILTIN_TYPES:
        raise TrainingError(f"{of!r} has no kinds; give one of {', '.join(BUILTIN_TYPES)}.")
    if not isinstance(start, SubtypeModel):
        start = load_subtypes(str(start or start_of(of)), params.device)
    parts = data if isinstance(data, Parts) else kind_parts(data, of, start)
    if len(parts.train.classes) < 2:
        told = ", ".join(parts.train.classes) or "none"
        raise TrainingError(f"Training needs cells of two kinds of {of} or more; there is only {told}.")
    is_same = start.info.refines == of
    known = start.info.classes if is_same else ()
    fresh = sorted(set(parts.train.classes) - set(known))
    classes = tuple(dict.fromkeys([*known, *fresh]))  # of one name they are one kind
    parts = Parts(*(part.with_classes(classes) for _, part in parts.items()))
    data_hash = concatenate([part for _, part in parts.items()]).content_hash()
    settings = {**params.model_dump(mode="json"), "fine_tuned_from": start.sha256, "data_hash": data_hash}
    temperature = start.info.temperature if is_same else 1.0
    info = replace(
        start.info,
        refines=of,
        classes=(*known, *fresh),
        temperature=temperature,
        seen={},  # what this laboratory's smears look like, it has seen
        settings=settings,
        report={},
    )
    yield Progress(0, params.epochs, "epochs")
    train, val = ((part.cutouts, part.labels) for part in (parts.train, parts.val))
    fitting = fit_kinds(train, val, start, info=info, params=params, should_stop=should_stop)
    before = start if is_same else None
    model, report = yield from iter_report(
        fitting, parts, params=params, data_hash=data_hash, before=before, begin=begin
    )
    info = replace(info, report=report.to_dict(with_cutouts=False))
    return Training(SubtypeModel(model.network, info, name="trained", device=model.device), report)


def kind_parts(data: TrainingSet | str | Path, of: str, start: SubtypeModel) -> Parts:
    """Return the three parts of a training set's kinds of a type, as a model sees them, with more around them."""
    kept = data if isinstance(data, TrainingSet) else kind_set(data, of)
    if not len(kept):
        raise TrainingError(
            f"{kept.folder} holds no kinds of {of}. Tell some in the Review dock (the key K), and train on corrections."
        )
    view = start.view
    size = round(CANVAS_IN_WINDOWS * view.pop("size"))
    return kept.parts(**view, size=size, in_any_stain=True)
