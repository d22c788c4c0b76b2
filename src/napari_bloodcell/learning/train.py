"""Trains and fine-tunes the classifier (paper §3.4, §4.2, §4.3)."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from napari_bloodcell.core.errors import TrainingError
from napari_bloodcell.core.params import TrainParams
from napari_bloodcell.core.progress import drained
from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.learning.dataset import (
    LabelledCutouts,
    Parts,
    balance,
    class_order,
    concatenate,
    read_cutouts,
    read_parts,
    split,
)
from napari_bloodcell.learning.kinds import iter_train_kinds
from napari_bloodcell.learning.reports import Training, iter_report
from napari_bloodcell.learning.training_list import LIST
from napari_bloodcell.learning.training_set import TrainingSet
from napari_bloodcell.models.load import load_classifier

if TYPE_CHECKING:
    import numpy as np

    from napari_bloodcell.models.cnn.classifier import CnnClassifier
    from napari_bloodcell.models.cnn.subtypes import SubtypeModel

Data = LabelledCutouts | Parts | TrainingSet | str | Path


def never() -> bool:
    """Return False: never stop early."""
    return False


def iter_train(
    dataset_or_folder: Data,
    *,
    params: TrainParams = TrainParams(),  # noqa: B008 - frozen
    start: str | Path | CnnClassifier | SubtypeModel | None = None,
    of: str = "",
    should_stop: Callable[[], bool] = never,
) -> Generator[Progress, None, Training]:
    """Train the paper's CNN, or fine-tune a classifier, or a model that tells the kinds of a type apart.

    Parameters
    ----------
    dataset_or_folder : TrainingSet, LabelledCutouts, Parts or path
        The examples: the folder of a training set; or one that holds a sub-folder of pictures per class, or such
        folders in ``train`` and ``val`` (and ``test``), which are then the parts (pictures named ``aug-*`` are left out
        there, see `read_cutouts`). Cutouts that are in no part yet are split 75:15:10 per class.
    params : TrainParams
        Settings. The defaults are the paper's (Table 2); `TrainParams.quick` takes larger steps in larger batches,
        which is several times quicker.
    start : str, path or CnnClassifier, optional
        "embedded", "paper" or a file: weights to fine-tune (§4.3). Architecture, scale and colours are kept, as are its
        classes; new classes are added.
    of : str
        "WBC", "RBC" or "platelet": learn its kinds instead of types. The training set's kinds of it are the examples,
        and training always goes on from a model: `start`, a name in `ClassifyParams.subtypes` or a file, by default
        the program's own. Of `params`, `epochs`, `seed` and `device` play a part.
    should_stop : callable, optional
        Called after every step; if it returns True, the best classifier so far is returned.

    Yields
    ------
    Progress
        After each epoch with an `Epoch` as payload, and in between with None.

    Returns
    -------
    Training
        `classifier`, with `save`, and `report`.

    Raises
    ------
    TrainingError
        If there is only one class, a class is empty or too small, the data have no class that `start` knows or were cut
        for another classifier, or the loss diverges.
    ModelError
        If `start` is no classifier.

    Notes
    -----
    Of the training part only, every WBC becomes ten by flips and rotations up to 90° and RBC are thinned to two per WBC
    (§3.4). One logit and binary cross-entropy for two classes, K logits and cross-entropy otherwise. The weights of the
    epoch of the least validation loss are kept. Departures from the paper, which `TrainParams.paper` does not make:
    cutouts are turned and moved at random (`turn`, `shift_px`), and fine-tuning stays close to the old weights
    (`fine_tune`).
    """
    begin = time.monotonic()
    if of:
        return (yield from _iter_train_kinds(dataset_or_folder, of, params, start, should_stop))
    from napari_bloodcell.models.cnn import training as cnn_training
    from napari_bloodcell.models.cnn import tuning as cnn_tuning
    from napari_bloodcell.models.cnn.classifier import ClassifierInfo, CnnClassifier

    if start is not None and not isinstance(start, CnnClassifier):
        start = load_classifier(str(start), device=params.device)
    parts = parts_of(dataset_or_folder, params, start)
    classes = _classes_of(parts.train, start)
    parts = Parts(*(part.with_classes(classes) for _, part in parts.items()))
    info = ClassifierInfo(
        classes=classes,
        rbc_diameter_px=parts.train.rbc_diameter_px,
        glass_level=parts.train.glass_level,
        red_level=parts.train.red_level,
        settings={**params.model_dump(mode="json"), "fine_tuned_from": None if start is None else start.sha256},
        data_hash=concatenate([part for _, part in parts.items()]).content_hash(),
    )
    yield Progress(0, params.epochs, "epochs")
    if start is not None and params.fine_tune == "head":
        train_part, val_part = _arrays(parts.train), _arrays(parts.val)
        work = cnn_tuning.fit_head(train_part, val_part, start, params=params, info=info, should_stop=should_stop)
    else:
        balancing = params.model_dump(include={"wbc_augmentation", "rbc_per_wbc", "seed"})
        work = cnn_training.fit(
            _arrays(balance(parts.train, **balancing)),
            _arrays(parts.val),
            classes=classes,
            params=params,
            start=start,
            info=info,
            should_stop=should_stop,
        )
    classifier, report = yield from iter_report(
        work, parts, params=params, data_hash=info.data_hash, before=start, begin=begin
    )
    info = replace(info, report=report.to_dict(with_cutouts=False))
    return Training(CnnClassifier(classifier.network, info, device=classifier.device), report)


def _iter_train_kinds(
    data: Data, of: str, params: TrainParams, start: Any, should_stop: Callable[[], bool]
) -> Generator[Progress, None, Training]:
    if isinstance(data, LabelledCutouts):
        data = split(data, params.split, seed=params.seed)
    return (yield from iter_train_kinds(data, of, params=params, start=start, should_stop=should_stop))


train = drained(iter_train)
"""`iter_train`, run to its end."""


def parts_of(data: Data, params: TrainParams, start: CnnClassifier | None = None) -> Parts:
    """Return the three parts of data as `train` takes them, seen as the classifier `start` does; raises as `train`."""
    parts = _read(data, params, start)
    _check_classes(parts.train)
    for name, part in parts.items():
        if (part.classes, part.treatment) != (parts.train.classes, parts.train.treatment):
            raise TrainingError(f"The {name} part differs from the training part in its classes, scale or colours.")
    if start is not None:
        _check_start(parts.train, start)
    return parts


def _read(data: Data, params: TrainParams, start: CnnClassifier | None) -> Parts:
    if isinstance(data, Parts):
        return data
    if isinstance(data, str | Path) and (Path(data) / LIST).is_file():
        data = TrainingSet(data)
    if isinstance(data, TrainingSet):
        if not len(data):
            raise TrainingError(f"The training set {data.folder} is empty. Add cells to it first.")
        if start is None:
            return data.parts()
        return data.parts(**_levels_of(start))
    if isinstance(data, str | Path):
        parts = read_parts(data) if Path(data).is_dir() else None
        if parts is not None:
            return parts
        data = read_cutouts(data)
    _check_classes(data)
    return split(data, params.split, seed=params.seed)


def _classes_of(part: LabelledCutouts, start: CnnClassifier | None) -> tuple[str, ...]:
    """Return the new classifier's classes: those of `start`, then new ones."""
    known = () if start is None else tuple(start.classes)
    return (*known, *sorted(set(part.classes) - set(known), key=class_order))


def _arrays(part: LabelledCutouts) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    return part.cutouts, part.labels


def _check_classes(dataset: LabelledCutouts) -> None:
    if len(dataset.classes) < 2:
        raise TrainingError(
            f"Training needs cells of two types or more; there is only {', '.join(dataset.classes) or 'none'}."
        )
    empty = [name for name, n in dataset.counts().items() if not n]
    if empty:
        raise TrainingError(
            f"No cell of the class {', '.join(map(repr, empty))} to train on. Label some, or leave it out."
        )


def _levels_of(start: CnnClassifier) -> dict[str, Any]:
    """Return how a classifier sees cells, as arguments of `TrainingSet.parts`."""
    return {"rbc_diameter_px": start.rbc_diameter_px, "glass_level": start.glass_level, "red_level": start.red_level}


def _check_start(dataset: LabelledCutouts, start: CnnClassifier) -> None:
    """Refuse to fine-tune a classifier that knows none of the classes, or cells of another scale or colours."""
    if not set(dataset.classes) & set(start.classes):
        raise TrainingError(
            f"{start.name!r} knows {', '.join(start.classes)}, and the cells are {', '.join(dataset.classes)}: it has "
            "nothing to begin with. Train from scratch, or choose a model that knows one of these classes."
        )
    given, known = dataset.treatment, replace(dataset, **_levels_of(start)).treatment
    if given != known:
        raise TrainingError(
            f"The cutouts have rbc_diameter_px, glass_level, red_level = {given}, but {start.name!r} was trained on "
            f"{known}. Put them into a training set (`TrainingSet.add_folder`, with the width of a red cell and the "
            "colour of the glass), which brings them to the scale of any classifier."
        )
