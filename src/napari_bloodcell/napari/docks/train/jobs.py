"""The work behind the Train dock: gathers examples, trains a classifier, and collects its mistakes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import platformdirs
from napari.components import ViewerModel
from napari.layers import Labels
from numpy.typing import NDArray

from napari_bloodcell.core.cells import UNIDENTIFIED, with_later
from napari_bloodcell.core.errors import TrainingError
from napari_bloodcell.core.files import expanded
from napari_bloodcell.core.params import TrainParams
from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.corrections.journal import image_hash
from napari_bloodcell.learning.dataset import LabelledCutouts, Parts
from napari_bloodcell.learning.grid_search import GridSearch, iter_grid_search
from napari_bloodcell.learning.kinds import add_kinds, kind_parts, kind_set, start_of
from napari_bloodcell.learning.reports import PartFigures, Training, figures_of
from napari_bloodcell.learning.train import iter_train, parts_of
from napari_bloodcell.learning.training_list import LIST
from napari_bloodcell.learning.training_set import TrainingSet
from napari_bloodcell.models.load import load_classifier, load_subtypes
from napari_bloodcell.models.preload import preload_torch
from napari_bloodcell.napari.layers.features import PLANE, by_hand, is_called, to_table
from napari_bloodcell.napari.layers.images import ImageSource, PlaneIndex, image_source
from napari_bloodcell.napari.layers.links import calibration_of, full_resolution, image_layer_for, is_cells
from napari_bloodcell.napari.layers.results import SegmentedPlane

if TYPE_CHECKING:  # loads torch
    from napari_bloodcell.models.cnn.classifier import CnnClassifier
    from napari_bloodcell.models.cnn.subtypes import SubtypeModel

FOLDER_VARIABLE: Final = "NAPARI_BLOODCELL_TRAINING_SET"
"""Environment variable with the folder in which corrections are gathered."""


class Source(StrEnum):
    """Where examples come from."""

    CORRECTIONS = "Corrections"
    TRAINING_SET = "A training set"
    PAPER_LAYOUT = "Paper's layout (folders)"


@dataclass(frozen=True, eq=False)
class CorrectedPlane:
    """One plane of an image with the cells that a person typed."""

    source: ImageSource
    index: PlaneIndex
    segmented: SegmentedPlane


@dataclass(frozen=True, eq=False)
class TrainTask:
    """What to train, and on what."""

    source: Source
    folder: Path  # the training set, or the folders of pictures
    corrected: Sequence[CorrectedPlane]  # added to the training set first
    annotator: str  # who corrected
    params: TrainParams
    start: str | None  # "embedded", "paper" or a file; None: from scratch
    of: str = ""  # the type whose kinds are learned; "": types are
    is_grid_search: bool = False  # over the settings of the paper's Table 1


@dataclass(frozen=True, eq=False)
class Trained:
    """The outcome of a task."""

    training: Training
    parts: dict[str, LabelledCutouts]  # "val" and "test", if not empty
    figures: dict[str, PartFigures]  # of these parts, with the cutouts behind each number
    grid: GridSearch | None = None  # all tries of a grid search
    of: str = ""  # the type whose kinds the model tells
    kept: Path | None = None  # backup until the next training; None if it could not be written


def default_training_set() -> Path:
    """Return the folder in which corrections are gathered: `FOLDER_VARIABLE`, or in the user's data folder."""
    chosen = os.environ.get(FOLDER_VARIABLE, "").strip()
    if chosen:
        return expanded(chosen).absolute()
    return platformdirs.user_data_path("napari-bloodcell", appauthor=False) / "training set"


def corrected_planes(viewer: ViewerModel) -> list[CorrectedPlane]:
    """Return what people typed in the open images; pixels are read later."""
    found = []
    for layer in [one for one in viewer.layers if is_cells(one)]:
        image = image_layer_for(viewer, layer)
        mine = _typed_by_hand(layer.features)
        if image is None or not mine.any():
            continue
        labels = full_resolution(layer)
        table = to_table(layer.features[mine])  # only these rows, of perhaps a million
        stack = labels.shape[:-2]
        numbers = table[PLANE].to_numpy() if stack and PLANE in table.columns else np.zeros(len(table), np.int64)
        for number in np.unique(numbers).tolist():
            index = tuple(int(i) for i in np.unravel_index(int(number), stack)) if stack else ()
            cells = labels[index] if index else labels  # stays lazy
            plane = SegmentedPlane(cells, table[numbers == number], calibration_of(layer))
            found.append(CorrectedPlane(image_source(image), index, plane))
    return found


def n_corrected(cells_layer: Labels, of: str = "") -> int:
    """Return the number of cells of a layer that a person typed and that can be learned from.

    With `of`, of that type, and with a kind that a person told.
    """
    features = cells_layer.features
    mine = _typed_by_hand(features)
    if of:
        mine &= is_called(features, of)
        told = with_later(features.loc[mine])
        is_known = ~told["subtype"].isin(["", UNIDENTIFIED]) & (told["subtype_source"] == "user")
        return int(is_known.sum())
    return int((cells_layer.features.loc[mine, "cell_type"] != UNIDENTIFIED).sum()) if mine.any() else 0


def _typed_by_hand(features: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which rows have a type that a person gave them, (N,)."""
    mine = by_hand(features)
    return mine & features["cell_type"].astype(bool).to_numpy(bool) if mine.any() else mine


def iter_training(task: TrainTask, should_stop: Callable[[], bool]) -> Generator[Progress, None, Trained]:
    """Gather examples, train, and evaluate; the payload is an `Epoch`, a try of a grid search, or None."""
    yield Progress(0, 0, "reading the examples")
    if task.source is Source.CORRECTIONS:
        yield from _iter_gather(task)
    preload_torch()
    start: CnnClassifier | SubtypeModel | None
    if task.of:
        start = load_subtypes(task.start or start_of(task.of), task.params.device)
        parts = kind_parts(task.folder, task.of, start)
    else:
        start = None if task.start is None else load_classifier(task.start, task.params.device)
        parts = parts_of(_examples(task), task.params, start)
    grid: GridSearch | None = None
    if task.is_grid_search:
        folder = _folder_of_search(parts, task.params)
        grid = yield from iter_grid_search(parts, params=task.params, folder=folder, should_stop=should_stop)
        if not grid.tries:
            raise TrainingError("Stopped before the first settings were tried to the end: no model was made or kept.")
        training = grid.best
    else:
        training = yield from iter_train(parts, params=task.params, start=start, of=task.of, should_stop=should_stop)
    judged = {name: part for name, part in parts.items() if name != "train" and len(part)}
    figures = {}
    for name, part in judged.items():
        yield Progress(0, 0, "comparing")
        known = training.report.parts[name]  # a resumed search lacks the names of cutouts
        figures[name] = known if known.cutouts else figures_of(training.classifier, part, training.report.classes)
    return Trained(training, judged, figures, grid, task.of, _keep(training.classifier))


def _keep(classifier: CnnClassifier | SubtypeModel) -> Path | None:
    """Back up the new classifier, so that closing the dock does not lose a night's work."""
    path = default_training_set().parent / "last trained.safetensors"
    try:
        classifier.save(path)
    except OSError:  # still in memory, to be saved elsewhere
        return None
    return path


def _iter_gather(task: TrainTask) -> Generator[Progress, None, None]:
    """Add corrections to the training set, skipping those that it has already."""
    kept = TrainingSet(task.folder, shares=task.params.split)
    kinds = kind_set(task.folder, task.of, task.params.split)
    if not task.corrected and not len(kept):
        raise TrainingError("Nobody corrected a cell of the open images yet. Correct some in the Review dock first.")
    for done, one in enumerate(task.corrected):
        yield Progress(done, len(task.corrected), "images read")
        data: Any = one.source.data[one.index] if one.index else one.source.data
        name = one.source.name + "".join(f" {i}" for i in one.index)
        is_plain = one.source.rgb and data.dtype == np.uint8 and data.shape[-1] == 3
        pixels = data if is_plain else one.source.plane(one.index).data
        add = partial(add_kinds, kinds, of=task.of) if task.of else kept.add_segmentation
        add(pixels, one.segmented, annotator=task.annotator, name=name, image_sha256=image_hash(data))


def _examples(task: TrainTask) -> TrainingSet | Path:
    """Return what to train on."""
    if task.source is Source.PAPER_LAYOUT:
        return task.folder
    known = TrainingSet(task.folder, shares=task.params.split)
    if not len(known):
        raise TrainingError(f"{task.folder} is not a training set, or an empty one: it has no {LIST}.")
    return known


def _folder_of_search(parts: Parts, params: TrainParams) -> Path:
    """Return the folder of a search's tries, where an interrupted search is resumed."""
    what = "".join(part.content_hash() for _, part in parts.items()) + params.model_dump_json()
    return default_training_set().parent / "grid searches" / hashlib.sha256(what.encode()).hexdigest()[:16]
