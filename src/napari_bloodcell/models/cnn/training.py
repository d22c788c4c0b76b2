"""The torch half of training a classifier: arrays and settings in, a trained `CnnClassifier` out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from napari_bloodcell.core.errors import TrainingError
from napari_bloodcell.models.cnn.classifier import (
    ClassifierInfo,
    CnnClassifier,
    cutout_extents,
    load_classifier,
    to_tensor,
)
from napari_bloodcell.models.cnn.network import Architecture, CellCnn
from napari_bloodcell.models.cnn.threads import BETAS, EPS, WORTH_IT, AdamLinear, Crew, describe
from napari_bloodcell.models.device import autocast, pick_device

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_bloodcell.core.params import TrainParams

Arrays = tuple["NDArray[np.uint8]", "NDArray[np.int64]"]
EpochFigures = tuple[float, float, float, float]
"""Training loss, training accuracy, validation loss, validation accuracy."""
_BREATH_S = 1.0
"""Training lets go of control at least this often, so that it can be cancelled."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A classifier, the number of the epoch that its weights are from, and whether training was stopped."""

    classifier: CnnClassifier
    best_epoch: int
    is_stopped: bool = False


def fit(
    train: Arrays,
    val: Arrays,
    *,
    classes: Sequence[str],
    params: TrainParams,
    start: str | Path | CnnClassifier | None = None,
    info: ClassifierInfo | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generator[EpochFigures | None, None, Fitted]:
    """Train a network with Adam and binary cross-entropy (cross-entropy for more than two classes).

    Parameters
    ----------
    train, val : tuple of ndarray
        Cutouts (N, 128, 128, 3) uint8 and labels (N,) int64. An empty validation part switches early stopping off.
    classes : sequence of str
        Names of the labels.
    params : TrainParams
        Epochs, batch size, learning rate, dropout, dense units, patience, seed, device.
    start : str, path or CnnClassifier, optional
        Weights to fine-tune; its architecture is kept, and what it knows of classes that are also in `classes`.
    info : ClassifierInfo, optional
        What the classifier says of itself; `classes` are taken from the argument.
    should_stop : callable
        Asked between steps; True ends the training with the best weights so far.

    Yields
    ------
    tuple of float, or None
        The figures of an epoch after each; None about every second in between.

    Returns
    -------
    Fitted
        With the weights of the epoch of the least validation loss (of the last, without a validation part).

    Raises
    ------
    TrainingError
        If the loss is no longer a number.
    """
    device = pick_device(params.device)
    network = initial_network(classes, params, start).to(device).channels_last()
    best_loss, best_epoch, best_state, waited, is_stopped = np.inf, 0, None, 0, False
    with Crew(None if device.type == "cpu" else 1) as crew:
        learner = _Learner(network, params, crew, device)
        examples = _Examples(*train, extents=cutout_extents(train[0]))
        for epoch in range(params.epochs):
            figures = yield from learner.epoch(examples, params.seed * 100_003 + epoch, should_stop)
            val_loss, val_accuracy = evaluate(network, *val) if len(val[1]) else (figures[0], figures[1])
            yield (figures[0], figures[1], val_loss, val_accuracy)
            if not len(val[1]) or val_loss < best_loss:
                best_loss, best_epoch, waited = val_loss, epoch + 1, 0
                if len(val[1]):  # otherwise the last weights are wanted, which the network has
                    best_state = {k: v.detach().clone() for k, v in network.state_dict().items()}
            else:
                waited += 1
            is_stopped = should_stop()
            if is_stopped or (params.patience is not None and waited >= params.patience):
                break
    if best_state is not None:
        network.load_state_dict(best_state)
    network.dense = learner.dense
    described = info or ClassifierInfo(classes=tuple(classes))
    return Fitted(CnnClassifier(network, described, device=device), best_epoch, is_stopped)


@dataclass(frozen=True, eq=False)
class _Examples:
    """The training part, with how far each cell reaches from the middle of its cutout."""

    cutouts: NDArray[np.uint8]
    labels: NDArray[np.int64]
    extents: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Step:
    """How well the network did on a batch: mean loss, cells typed right, cells."""

    loss: float
    n_right: int
    n: int


class _Learner:
    """A network with what changes it."""

    def __init__(self, network: CellCnn, params: TrainParams, crew: Crew, device: torch.device) -> None:
        self.network, self.params, self.crew, self.device = network, params, crew, device
        self.dense = network.dense
        if device.type == "cpu" and self.dense.weight.numel() >= WORTH_IT:
            network.dense = AdamLinear(self.dense, params.learning_rate, crew)
        rest = [p for p in network.parameters() if p.requires_grad]
        is_fused = device.type != "mps"
        self._optimiser = torch.optim.Adam(rest, lr=params.learning_rate, betas=BETAS, eps=EPS, fused=is_fused)
        self._order = np.random.default_rng(params.seed)

    def epoch(
        self, examples: _Examples, seed: int, should_stop: Callable[[], bool]
    ) -> Generator[None, None, tuple[float, float]]:
        """Pass once over the examples, or over what of them comes before a stop; return mean loss and accuracy."""
        generator_state = _seeded(seed)
        rows, size = self._order.permutation(len(examples.labels)), self.params.batch_size
        batches = iter([np.sort(rows[begin : begin + size]) for begin in range(0, len(rows), size)])
        steps: list[_Step] = []
        is_over = False
        while not is_over:
            with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator; leave the caller's alone
                torch.set_rng_state(generator_state)
                taken, is_over = self.crew.lead(partial(self._breath, examples, batches, should_stop))
                generator_state = torch.get_rng_state()
            steps += taken
            yield None
        seen = sum(step.n for step in steps)
        return sum(step.loss * step.n for step in steps) / seen, sum(step.n_right for step in steps) / seen

    def _breath(
        self, examples: _Examples, batches: Iterator[NDArray[np.int64]], should_stop: Callable[[], bool]
    ) -> tuple[list[_Step], bool]:
        """Take steps for about a second; return them, and whether the pass is over."""
        end = time.monotonic() + _BREATH_S
        steps: list[_Step] = []
        for batch in batches:
            target = torch.from_numpy(examples.labels[batch]).to(self.device)
            steps.append(self._step(self._moved(examples, batch), target))
            if should_stop():
                return steps, True
            if time.monotonic() > end:
                return steps, False
        return steps, True

    def _moved(self, examples: _Examples, batch: NDArray[np.int64]) -> tuple[Tensor, ...]:
        """Return cutouts of the batch, turned and moved at random; the extents of their cells; how far they moved."""
        most = self.params.shift_px
        shifts = self._order.integers(-most, most + 1, (len(batch), 2))
        cutouts = examples.cutouts[batch]
        if self.params.turn:
            cutouts = _turned(cutouts, self._order.integers(8, size=len(batch)))
        x = to_tensor(_shifted(cutouts, shifts), self.device)
        return x, *(torch.from_numpy(of).to(self.device) for of in (examples.extents[batch], shifts))

    def _step(self, moved: tuple[Tensor, ...], target: Tensor) -> _Step:
        """Take a step for what `_moved` gave, and return how well the network did before it."""
        self.network.train()
        self._optimiser.zero_grad(set_to_none=True)
        logits = self.network.decide(describe(self.network, self.crew, *moved))
        loss = loss_of(logits, target)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        step = _Step(float(loss.detach()), int((predicted(logits) == target).sum()), len(target))
        if not np.isfinite(step.loss):
            raise TrainingError(
                "The training diverged: its loss is no longer a number. Choose a smaller learning_rate."
            )
        return step


def _turned(cutouts: NDArray[np.uint8], ways: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return cutouts (N, S, S, 3), each in one of the eight ways to lay a square: quarter turns, from 4 on flipped."""
    turned = [np.rot90(one, way % 4) for one, way in zip(cutouts, ways.tolist(), strict=True)]
    return np.stack([one[:, ::-1] if way >= 4 else one for one, way in zip(turned, ways.tolist(), strict=True)])


def _shifted(cutouts: NDArray[np.uint8], shifts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return cutouts (N, S, S, 3) moved by (dy, dx) pixels; what is moved out is lost."""
    if not shifts.any():
        return cutouts
    out = np.zeros_like(cutouts)
    for new, old, (dy, dx) in zip(out, cutouts, shifts.tolist(), strict=True):
        h, w = old.shape[0] - abs(dy), old.shape[1] - abs(dx)
        y, x = max(dy, 0), max(dx, 0)
        new[y : y + h, x : x + w] = old[y - dy : y - dy + h, x - dx : x - dx + w]
    return out


def evaluate(network: CellCnn, cutouts: NDArray[np.uint8], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Return mean loss and accuracy of a network, dropout off."""
    device = next(network.parameters()).device
    network.eval()
    total, right = 0.0, 0
    with torch.inference_mode(), autocast(device):
        for begin in range(0, len(labels), 128):
            target = torch.from_numpy(labels[begin : begin + 128]).to(device)
            logits = network(to_tensor(cutouts[begin : begin + 128], device))
            total += float(loss_of(logits, target)) * len(target)
            right += int((predicted(logits) == target).sum())
    return total / len(labels), right / len(labels)


def loss_of(logits: Tensor, target: Tensor) -> Tensor:
    """Return the binary cross-entropy of one logit, the cross-entropy of several; mean over the batch."""
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0].float(), target.float())
    return F.cross_entropy(logits.float(), target)


def predicted(logits: Tensor) -> Tensor:
    """Return the label of each row."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)


def initial_network(
    classes: Sequence[str], params: TrainParams, start: str | Path | CnnClassifier | None = None
) -> CellCnn:
    """Return the network that training begins with: random by seed, or `start` with a last layer for these classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        if start is None:
            return CellCnn(Architecture("flatten", params.dense_units, params.dropout, len(classes)))
        known = start if isinstance(start, CnnClassifier) else load_classifier(start, device="cpu")
        old = known.network.architecture
        network = CellCnn(Architecture(old.head, old.dense_units, params.dropout, len(classes)))
    state = {k: v.detach().cpu().clone() for k, v in known.network.state_dict().items()}
    fresh = network.state_dict()
    weight, bias = _rows_of(tuple(known.classes), state["logits.weight"], state["logits.bias"])
    new_weight, new_bias = _rows_of(tuple(classes), fresh["logits.weight"], fresh["logits.bias"])
    for c in set(weight) & set(classes):
        new_weight[c], new_bias[c] = weight[c], bias[c]
    state["logits.weight"], state["logits.bias"] = _logits_of(classes, new_weight, new_bias)
    network.load_state_dict(state)
    return network


def _rows_of(classes: Sequence[str], weight: Tensor, bias: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return weights and bias of each class; a single logit is that of the second class against a first one of 0."""
    if weight.shape[0] == 1:
        weight, bias = torch.cat([torch.zeros_like(weight), weight]), torch.cat([torch.zeros_like(bias), bias])
    return dict(zip(classes, weight, strict=True)), dict(zip(classes, bias, strict=True))


def _logits_of(classes: Sequence[str], weight: dict[str, Tensor], bias: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the last layer for these classes: the reverse of `_rows_of`."""
    w, b = torch.stack([weight[c] for c in classes]), torch.stack([bias[c] for c in classes])
    return (w[1:] - w[:1], b[1:] - b[:1]) if len(classes) == 2 else (w, b)


def _seeded(seed: int) -> Tensor:
    """Return a state of torch's generator, without touching the global one."""
    return torch.Generator().manual_seed(seed % 2**63).get_state()
