"""Trains and fine-tunes the classifier, and reports on it (paper §3.4, §4.2, §4.3)."""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_bloodcell.dataset import LabelledCutouts, Parts, balance, concatenate, read_cutouts, read_parts, split
from napari_bloodcell.errors import TrainingError
from napari_bloodcell.params import TrainParams
from napari_bloodcell.progress import drain
from napari_bloodcell.protocols import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from numpy.typing import NDArray

    from napari_bloodcell.backends.cnn import CnnClassifier
    from napari_bloodcell.protocols import CellClassifier

TABLE_1: dict[str, tuple[Any, ...]] = {
    "learning_rate": (1e-3, 1e-4),
    "batch_size": (4, 16, 32),
    "dense_units": (128, 256, 512),
    "dropout": (0.2, 0.5),
}
"""The grid that `grid_search` tries. It holds the values of the authors' published training code (`TrainParams.paper`:
Adam, 1e-4, batches of 4, 512 dense units, dropout 0.2, 20 epochs) and the defaults of `TrainParams`."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """Figures of one pass over the training part; the training figures are means over the pass, with dropout on."""

    number: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """Precision, recall, F1 and number of cells of one class; 0 where undefined."""

    precision: float
    recall: float
    f1: float
    n: int


@dataclass(frozen=True, slots=True)
class PartFigures:
    """How the classifier does on one part.

    Attributes
    ----------
    n : int
        Cutouts of the part, as labelled (the training part: before balancing).
    loss : float
        Mean cross-entropy.
    accuracy : float
        Share of cutouts typed right.
    confusion : list of list of int
        Rows are the true classes, columns the predicted ones.
    per_class : dict
        Figures by name of class.
    """

    n: int
    loss: float
    accuracy: float
    confusion: list[list[int]]
    per_class: dict[str, ClassFigures]


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What a training did and reached.

    Attributes
    ----------
    classes : list of str
        In the order of rows and columns of the confusion matrices.
    params : dict
        Settings.
    parts : dict
        "train", "val" and "test", each where it is not empty.
    history : list of Epoch
        Figures by epoch.
    best_epoch : int
        Epoch whose weights were kept.
    data_hash : str
        sha256 of the cutouts and labels.
    seconds : float
        Time taken.
    """

    classes: list[str]
    params: dict[str, Any]
    parts: dict[str, PartFigures]
    history: list[Epoch]
    best_epoch: int
    data_hash: str
    seconds: float = field(compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain numbers, strings, lists and dicts (JSON)."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Training:
    """A trained classifier with its report. `classifier.save(path)` writes it."""

    classifier: CnnClassifier
    report: TrainingReport


@dataclass(frozen=True, eq=False)
class GridSearch:
    """Result of a grid search: the settings and validation figures of each try, and the best training."""

    tries: list[dict[str, Any]]
    best: Training


Data = LabelledCutouts | Parts | str | Path


def iter_train(
    dataset_or_folder: Data,
    *,
    params: TrainParams = TrainParams(),  # noqa: B008 - frozen
    start: str | Path | CnnClassifier | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generator[Progress, None, Training]:
    """Train epoch by epoch; see `train`. The payload is an `Epoch` after each epoch, None in between.

    When `should_stop`, asked after each step, says so, the training ends with the best weights so far.
    """
    begin = time.monotonic()
    parts = _parts(dataset_or_folder, params)
    _check(parts)
    from napari_bloodcell.backends import cnn, cnn_training

    if start is not None:
        start = start if isinstance(start, cnn.CnnClassifier) else cnn.load_classifier(start, device=params.device)
        _check_start(parts.train, start)
    data_hash = _hash_of(parts)
    balanced = balance(
        parts.train,
        wbc_augmentation=params.wbc_augmentation,
        rbc_per_wbc=params.rbc_per_wbc,
        seed=params.seed,
    )
    info = cnn.ClassifierInfo(
        classes=parts.train.classes,
        rbc_diameter_px=parts.train.rbc_diameter_px,
        glass_level=parts.train.glass_level,
        settings={**params.model_dump(mode="json"), "fine_tuned_from": start.sha256 if start is not None else None},
        data_hash=data_hash,
    )
    work = cnn_training.fit(
        (balanced.cutouts, balanced.labels),
        (parts.val.cutouts, parts.val.labels),
        classes=parts.train.classes,
        params=params,
        start=start,
        info=info,
        should_stop=should_stop,
    )
    history: list[Epoch] = []
    yield Progress(0, params.epochs, "epochs")
    while True:
        try:
            figures = next(work)
        except StopIteration as end:
            trained: CnnClassifier = end.value
            break
        epoch = None if figures is None else Epoch(len(history) + 1, *figures)
        if epoch is not None:
            history.append(epoch)
        yield Progress(len(history), params.epochs, "epochs", epoch)
    best = min(history, key=lambda e: e.val_loss) if len(parts.val) else history[-1]
    report = TrainingReport(
        classes=list(parts.train.classes),
        params=params.model_dump(mode="json"),
        parts={name: figures_of(trained, part) for name, part in parts.items() if len(part)},
        history=history,
        best_epoch=best.number,
        data_hash=data_hash,
        seconds=time.monotonic() - begin,
    )
    final = cnn.CnnClassifier(trained.network, replace(info, report=report.to_dict()), device=trained.device)
    return Training(final, report)


def train(
    dataset_or_folder: Data,
    *,
    params: TrainParams = TrainParams(),  # noqa: B008 - frozen
    start: str | Path | CnnClassifier | None = None,
) -> Training:
    """Train the paper's CNN, or fine-tune a classifier.

    Parameters
    ----------
    dataset_or_folder : LabelledCutouts, Parts or path
        Cutouts, which are split 75:15:10 per class; or parts that are used as they are. A folder holds one sub-folder
        of pictures per class, or such folders in ``train`` and ``val`` (and ``test``), which are then the parts.
        Pictures named ``aug-*`` are left out (`read_cutouts`).
    params : TrainParams
        Settings. The defaults take larger steps in larger batches than the paper, which is several times quicker and as
        good; `TrainParams.paper` has the values of its published code.
    start : str, path or CnnClassifier, optional
        "embedded", "paper" or a file: weights to fine-tune (§4.3). Architecture, scale and colours are its own; classes
        may be others. A smaller `learning_rate` is advisable.

    Returns
    -------
    Training
        `classifier`, with `save`, and `report`.

    Raises
    ------
    TrainingError
        If there is only one class, a class is empty or too small, or the loss diverges.
    ModelError
        If `start` is no classifier.

    Notes
    -----
    Of the training part only, every WBC becomes ten by flips and rotations up to 90° and RBC are thinned to two per WBC
    (§3.4). One logit and binary cross-entropy for two classes, K logits and cross-entropy otherwise. The weights of
    the epoch of the least validation loss are kept. Departures from the paper: cutouts are moved about at random
    (`shift_px`), and `patience` ends training early.
    """
    return drain(iter_train(dataset_or_folder, params=params, start=start))


def iter_grid_search(
    dataset_or_folder: Data,
    *,
    params: TrainParams = TrainParams(),  # noqa: B008 - frozen
    grid: Mapping[str, Sequence[Any]] = TABLE_1,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generator[Progress, None, GridSearch]:
    """Try the grid's settings one by one; see `grid_search`. The payload is the last finished try, or None.

    When `should_stop` says so, the search ends with the tries that are done, or with the one that was begun.
    """
    unknown = set(grid) - set(TrainParams.model_fields)
    if unknown or not all(grid.values()):
        raise TrainingError(
            f"The grid names {sorted(grid)}; each must be a setting of training with at least one value."
        )
    parts = _parts(dataset_or_folder, params)
    if not len(parts.val):
        raise TrainingError("A grid search compares losses on the validation part, and there is none.")
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    tries: list[dict[str, Any]] = []
    best: Training | None = None
    best_loss = np.inf
    for combination in combinations:
        chosen = TrainParams.model_validate({**params.model_dump(), **combination})
        work = iter_train(parts, params=chosen, should_stop=should_stop)
        while True:
            try:
                next(work)
            except StopIteration as end:
                training: Training = end.value
                break
            yield Progress(len(tries), len(combinations), "settings tried")
        if should_stop() and best is not None:
            break  # this one was not trained to its end
        val = training.report.parts["val"]
        tries.append({**combination, "val_loss": val.loss, "val_accuracy": val.accuracy})
        if best is None or val.loss < best_loss:
            best, best_loss = training, val.loss
        yield Progress(len(tries), len(combinations), "settings tried", tries[-1])
        if should_stop():
            break
    if best is None:
        raise TrainingError("The grid is empty.")
    return GridSearch(tries, best)


def grid_search(
    dataset_or_folder: Data,
    *,
    params: TrainParams = TrainParams(),  # noqa: B008 - frozen
    grid: Mapping[str, Sequence[Any]] = TABLE_1,
) -> GridSearch:
    """Train with every combination of settings and keep the one of the least validation loss (paper, Table 1).

    Parameters
    ----------
    dataset_or_folder : LabelledCutouts, Parts or path
        As for `train`; split once, by the seed of `params`.
    params : TrainParams
        Settings that the grid does not name.
    grid : mapping of str to sequence
        Values by name of setting.

    Returns
    -------
    GridSearch

    Raises
    ------
    TrainingError
        As `train`, or if the grid is empty or names an unknown setting, or there is no validation part.
    """
    return drain(iter_grid_search(dataset_or_folder, params=params, grid=grid))


def figures_of(classifier: CellClassifier, part: LabelledCutouts) -> PartFigures:
    """Return loss, accuracy, confusion matrix and per-class figures of a classifier on labelled cutouts.

    Classes of the part that the classifier does not know are an error; those that only it knows may be predicted.
    """
    classes = list(classifier.classes)
    missing = set(part.classes) - set(classes)
    if missing:
        raise TrainingError(f"The classifier {classifier.name!r} knows {classes}, not {sorted(missing)}.")
    labels = np.array([classes.index(c) for c in part.classes], np.int64)[part.labels]
    probabilities = classifier.predict(part.cutouts)
    return figures_of_probabilities(probabilities, labels, classes)


def figures_of_probabilities(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], classes: Sequence[str]
) -> PartFigures:
    """Return the figures of probabilities (N, K) against labels (N,), which are columns."""
    k = len(classes)
    confusion = np.zeros((k, k), np.int64)
    np.add.at(confusion, (labels, probabilities.argmax(axis=1)), 1)
    likelihood = np.take_along_axis(probabilities.astype(np.float64), labels[:, None], axis=1)
    per_class = {}
    for i, name in enumerate(classes):
        right, predicted, true = (int(v) for v in (confusion[i, i], confusion[:, i].sum(), confusion[i].sum()))
        precision, recall = (right / n if n else 0.0 for n in (predicted, true))
        f1 = 2 * right / (predicted + true) if predicted + true else 0.0
        per_class[name] = ClassFigures(precision, recall, f1, true)
    return PartFigures(
        n=len(labels),
        loss=float(-np.log(np.clip(likelihood, 1e-12, 1)).mean()) if len(labels) else 0.0,
        accuracy=float(np.trace(confusion) / max(len(labels), 1)),
        confusion=confusion.tolist(),
        per_class=per_class,
    )


def _parts(data: Data, params: TrainParams) -> Parts:
    """Return the parts of whatever `train` was given."""
    if isinstance(data, Parts):
        return data
    if isinstance(data, str | Path):
        parts = read_parts(data) if Path(data).is_dir() else None
        if parts is not None:
            return parts
        data = read_cutouts(data)
    _check_classes(data)
    return split(data, params.split, seed=params.seed)


def _check(parts: Parts) -> None:
    """Refuse parts that nothing can be learned from."""
    _check_classes(parts.train)
    for name, part in parts.items():
        same = (part.classes, part.rbc_diameter_px, part.glass_level)
        if same != (parts.train.classes, parts.train.rbc_diameter_px, parts.train.glass_level):
            raise TrainingError(f"The {name} part differs from the training part in its classes, scale or colours.")


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


def _check_start(dataset: LabelledCutouts, start: CnnClassifier) -> None:
    """Refuse to fine-tune on cutouts of another scale or other colours than the weights know."""
    given = (dataset.rbc_diameter_px, dataset.glass_level)
    known = (start.rbc_diameter_px, start.glass_level)
    if given != known:
        raise TrainingError(
            f"The cutouts have rbc_diameter_px, glass_level = {given}, but {start.name!r} was trained on {known}. "
            "Cut the cells with the settings of the classifier that is fine-tuned."
        )


def _hash_of(parts: Parts) -> str:
    """Return the content hash of all parts together."""
    return concatenate([part for _, part in parts.items()]).content_hash()
