"""Reports of a training: figures with intervals, the cutouts behind them, and the change from before."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from napari_bloodcell.core.errors import TrainingError
from napari_bloodcell.core.params import TrainParams
from napari_bloodcell.core.progress import Steps
from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.learning.dataset import LabelledCutouts, Parts

if TYPE_CHECKING:  # loads torch
    from napari_bloodcell.models.cnn.classifier import CnnClassifier
    from napari_bloodcell.models.cnn.subtypes import SubtypeModel
    from napari_bloodcell.models.cnn.training import EpochFigures, Fitted

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Epoch:
    """Figures of one pass over the training part; its training figures are means over the pass, with dropout on."""

    number: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """Precision, recall, F1 and number of cells of one class, 0 where undefined, with their 95 % intervals."""

    precision: float
    recall: float
    f1: float
    n: int
    precision_interval: Interval = (0.0, 1.0)
    recall_interval: Interval = (0.0, 1.0)
    f1_interval: Interval = (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class PartFigures:
    """Figures of a classifier on one part; the training part is judged as it was before balancing.

    `confusion` has true classes as rows and predicted ones as columns; `cutouts` holds the names of the cutouts behind
    each of its numbers, the most certain first; empty without names. `loss` is the mean cross-entropy.
    """

    n: int
    loss: float
    accuracy: float
    confusion: list[list[int]]
    per_class: dict[str, ClassFigures]
    accuracy_interval: Interval = (0.0, 1.0)
    cutouts: list[list[list[str]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """The record and the figures of a training.

    `parts` are "train", "val" and "test", unless empty; `before` holds the same for the classifier that was fine-tuned,
    which is never right about classes it does not know; empty if training began from scratch. `classes` are in the
    order of the confusion matrices, `data_hash` is that of cutouts and labels.
    """

    classes: list[str]
    params: dict[str, Any]
    parts: dict[str, PartFigures]
    before: dict[str, PartFigures]
    history: list[Epoch]
    best_epoch: int
    data_hash: str
    is_stopped: bool = False
    seconds: float = field(default=0.0, compare=False)

    def change(self, part: str = "test") -> float | None:
        """Return the gain in accuracy on a part over the classifier before; None if there was none."""
        if part not in self.before or part not in self.parts:
            return None
        return self.parts[part].accuracy - self.before[part].accuracy

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> TrainingReport:
        """Return the report written by `to_dict`; `ValueError` if it is none."""
        report: TrainingReport = TypeAdapter(cls).validate_python(content)
        return report

    def to_dict(self, *, with_cutouts: bool = True) -> dict[str, Any]:
        """Return the report as plain numbers, strings, lists and dicts (JSON), with or without cutout names."""
        content = asdict(self)
        if not with_cutouts:
            for figures in (*content["parts"].values(), *content["before"].values()):
                figures["cutouts"] = []
        return content


@dataclass(frozen=True, eq=False)
class Training:
    """A trained classifier, or a model of the kinds of a type, with its report. `classifier.save(path)` writes it."""

    classifier: CnnClassifier | SubtypeModel
    report: TrainingReport


def wilson(right: int, n: int) -> Interval:
    """Return the 95 % Wilson score interval of a share; (0, 1) if `n` is 0."""
    if n == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest

    interval = binomtest(right, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


class Told(Protocol):
    """What tells classes of cutouts apart: a `CellClassifier`, or a model of the kinds of a type."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def classes(self) -> Sequence[str]: ...  # noqa: D102
    def predict(self, cutouts: NDArray[np.uint8], /) -> NDArray[np.float32]: ...  # noqa: D102


Model = TypeVar("Model", bound=Told)


def iter_report(
    fitting: Generator[EpochFigures | None, None, Fitted[Model]],
    parts: Parts,
    *,
    params: TrainParams,
    data_hash: str,
    before: Told | None,
    begin: float,
) -> Generator[Progress, None, tuple[Model, TrainingReport]]:
    """Fit a model that began to be made at `begin` (`time.monotonic`), and judge it, and the one before, on all parts.

    Yields its progress after each epoch, with an `Epoch`, and in between without.
    """
    history: list[Epoch] = []
    steps = Steps(fitting)
    for figures in steps:
        epoch = None if figures is None else Epoch(len(history) + 1, *figures)
        if epoch is not None:
            history.append(epoch)
        yield Progress(len(history), params.epochs, "epochs", epoch)
    fitted, classes = steps.result, parts.train.classes
    judged = [(name, part) for name, part in parts.items() if len(part)]
    report = TrainingReport(
        classes=list(classes),
        params=params.model_dump(mode="json"),
        parts={name: figures_of(fitted.classifier, part, classes) for name, part in judged},
        before={} if before is None else {name: figures_of(before, part, classes) for name, part in judged},
        history=history,
        best_epoch=fitted.best_epoch,
        data_hash=data_hash,
        is_stopped=fitted.is_stopped,
        seconds=time.monotonic() - begin,
    )
    return fitted.classifier, report


def figures_of(classifier: Told, part: LabelledCutouts, classes: Sequence[str] | None = None) -> PartFigures:
    """Return the figures of a classifier on labelled cutouts.

    `classes` are rows and columns of the figures, by default the classifier's; it is never right about those it does
    not know. Raises `TrainingError` if the part has a class that is not among them.
    """
    names = list(classes if classes is not None else classifier.classes)
    missing = sorted(set(part.classes) - set(names))
    if missing:
        raise TrainingError(
            f"The classifier {classifier.name!r} knows {', '.join(classifier.classes)}, but not {', '.join(missing)}: "
            "it cannot be judged on these cells. Train one that knows all of them."
        )
    probabilities = np.zeros((len(part), len(names)), np.float32)
    probabilities[:, [names.index(c) for c in classifier.classes]] = classifier.predict(part.cutouts)
    return figures_of_probabilities(probabilities, part.with_classes(names).labels, names, part.names)


def figures_of_probabilities(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], classes: Sequence[str], names: Sequence[str] = ()
) -> PartFigures:
    """Return the figures of probabilities (N, K) against labels (N,), given as columns; `names` are the cutouts'."""
    k = len(classes)
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((k, k), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    likelihood = np.take_along_axis(probabilities.astype(np.float64), labels[:, None], axis=1)
    right = int(np.trace(confusion))
    behind: list[list[list[str]]] = [[[] for _ in classes] for _ in classes] if names else []
    for i in np.argsort(-probabilities.max(axis=1), kind="stable").tolist() if names else ():
        behind[int(labels[i])][int(predicted[i])].append(names[i])
    return PartFigures(
        n=len(labels),
        loss=float(-np.log(np.clip(likelihood, 1e-12, 1)).mean()) if len(labels) else 0.0,
        accuracy=right / max(len(labels), 1),
        confusion=confusion.tolist(),
        per_class={name: _class_figures(confusion, i) for i, name in enumerate(classes)},
        accuracy_interval=wilson(right, len(labels)),
        cutouts=behind,
    )


def _class_figures(confusion: NDArray[np.int64], i: int) -> ClassFigures:
    right, predicted, true = (int(v) for v in (confusion[i, i], confusion[:, i].sum(), confusion[i].sum()))
    either = predicted + true - right
    low, high = wilson(right, either)  # F1 = 2 s / (1 + s), s = right / (typed or truly so)
    return ClassFigures(
        precision=right / predicted if predicted else 0.0,
        recall=right / true if true else 0.0,
        f1=2 * right / (predicted + true) if predicted + true else 0.0,
        n=true,
        precision_interval=wilson(right, predicted),
        recall_interval=wilson(right, true),
        f1_interval=(2 * low / (1 + low), 2 * high / (1 + high)),
    )
