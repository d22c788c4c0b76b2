"""The torch half of training a classifier: arrays and settings in, a trained `CnnClassifier` out."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from napari_bloodcell.core.errors import TrainingError
from napari_bloodcell.core.params import TrainParams
from napari_bloodcell.models.cnn.classifier import ClassifierInfo, CnnClassifier, cutout_extents, to_tensor
from napari_bloodcell.models.cnn.network import Architecture, CellCnn
from napari_bloodcell.models.device import autocast, pick_device

Arrays = tuple["NDArray[np.uint8]", "NDArray[np.int64]"]
"""Cutouts (N, 128, 128, 3) and labels (N,)."""
EpochFigures = tuple[float, float, float, float]
"""Training loss, training accuracy, validation loss, validation accuracy."""
_BREATH_S = 1.0
"""Training yields at least this often, so that it can be cancelled."""


Model = TypeVar("Model")


@dataclass(frozen=True, eq=False)
class Fitted(Generic[Model]):
    """A classifier or a model of kinds, the epoch that its weights are from, and whether training was stopped."""

    classifier: Model
    best_epoch: int
    is_stopped: bool = False


def fit(
    train: Arrays,
    val: Arrays,
    *,
    classes: Sequence[str],
    params: TrainParams,
    start: CnnClassifier | None = None,
    info: ClassifierInfo | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generator[EpochFigures | None, None, Fitted[CnnClassifier]]:
    """Train a network with Adam, from random weights or those of `start`; the best epoch's weights are kept.

    The best epoch has the least validation loss; the last counts if `val` is empty. Yields the figures of each epoch,
    and None about once a second in between. Raises `TrainingError` if the loss diverges.
    """
    device = pick_device(params.device)
    network = initial_network(classes, params, start).to(device).channels_last()
    learner = _Learner(network, params, device)
    best_loss, best_epoch, best_state, waited, is_stopped = np.inf, 0, None, 0, False
    for epoch in range(1, params.epochs + 1):
        loss, accuracy = yield from learner.iter_epoch(train, epoch, should_stop)
        val_loss, val_accuracy = evaluate(network, *val) if len(val[1]) else (loss, accuracy)
        yield loss, accuracy, val_loss, val_accuracy
        if not len(val[1]) or val_loss < best_loss:
            best_loss, best_epoch, waited = val_loss, epoch, 0
            if len(val[1]):  # without validation the last weights are kept, which the network has
                best_state = {k: v.detach().clone() for k, v in network.state_dict().items()}
        else:
            waited += 1
        is_stopped = should_stop()
        if is_stopped or (params.patience is not None and waited >= params.patience):
            break
    if best_state is not None:
        network.load_state_dict(best_state)
    described = info or ClassifierInfo(classes=tuple(classes))
    return Fitted(CnnClassifier(network, described, device=device), best_epoch, is_stopped)


class _Learner:
    """A network, its optimiser, and its random numbers."""

    def __init__(self, network: CellCnn, params: TrainParams, device: torch.device) -> None:
        self.network, self.params, self.device = network, params, device
        self._optimiser = torch.optim.Adam(network.parameters(), lr=params.learning_rate, fused=device.type != "mps")
        self._random = np.random.default_rng(params.seed)

    def iter_epoch(
        self, train: Arrays, number: int, should_stop: Callable[[], bool]
    ) -> Generator[None, None, tuple[float, float]]:
        """Pass once over the examples, or until `should_stop`; return mean loss and accuracy."""
        cutouts, labels = train
        dropout_state = torch.Generator().manual_seed((self.params.seed * 100_003 + number) % 2**63).get_state()
        rows, size = self._random.permutation(len(labels)), self.params.batch_size
        total, n_right, n_seen, last_breath = 0.0, 0, 0, time.monotonic()
        for begin in range(0, len(rows), size):
            batch = np.sort(rows[begin : begin + size])
            with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator, the caller's
                torch.set_rng_state(dropout_state)
                loss, right = self._step(cutouts[batch], labels[batch])
                dropout_state = torch.get_rng_state()
            total, n_right, n_seen = total + loss * len(batch), n_right + right, n_seen + len(batch)
            if should_stop():
                break
            if time.monotonic() > last_breath + _BREATH_S:
                yield None
                last_breath = time.monotonic()
        return total / n_seen, n_right / n_seen

    def _step(self, cutouts: NDArray[np.uint8], labels: NDArray[np.int64]) -> tuple[float, int]:
        """Take a step on a batch; return its mean loss and the number typed right, before the step."""
        extents = torch.from_numpy(cutout_extents(cutouts)).to(self.device)
        most = self.params.shift_px
        shifts = self._random.integers(-most, most + 1, (len(cutouts), 2))
        if self.params.turn:
            cutouts = _turned(cutouts, self._random.integers(8, size=len(cutouts)))
        x, target = to_tensor(_shifted(cutouts, shifts), self.device), torch.from_numpy(labels).to(self.device)
        self.network.train()
        self._optimiser.zero_grad(set_to_none=True)
        with autocast(self.device):
            described = self.network.describe(x, extents, torch.from_numpy(shifts).to(self.device))
        logits = self.network.decide(described)
        loss = loss_of(logits, target)
        if not torch.isfinite(loss):
            raise TrainingError(
                "The training diverged: its loss is no longer a number. Choose a smaller learning_rate."
            )
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        return float(loss.detach()), int((predicted(logits) == target).sum())


def _turned(cutouts: NDArray[np.uint8], ways: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return cutouts (N, S, S, 3), each turned by quarters, from 4 on also flipped."""
    turned = [np.rot90(one, way % 4) for one, way in zip(cutouts, ways.tolist(), strict=True)]
    return np.stack([one[:, ::-1] if way >= 4 else one for one, way in zip(turned, ways.tolist(), strict=True)])


def _shifted(cutouts: NDArray[np.uint8], shifts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return cutouts (N, S, S, 3) moved by (dy, dx) pixels; what leaves the cutout is lost."""
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


def initial_network(classes: Sequence[str], params: TrainParams, start: CnnClassifier | None = None) -> CellCnn:
    """Return the network to begin with: random by seed, or `start` with a last layer for these classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        if start is None:
            return CellCnn(Architecture("flatten", params.dense_units, params.dropout, len(classes)))
        old = start.network.architecture
        network = CellCnn(Architecture(old.head, old.dense_units, params.dropout, len(classes)))
    state = {k: v.detach().cpu().clone() for k, v in start.network.state_dict().items()}
    fresh = network.state_dict()
    weight, bias = _rows_of(tuple(start.classes), state["logits.weight"], state["logits.bias"])
    new_weight, new_bias = _rows_of(tuple(classes), fresh["logits.weight"], fresh["logits.bias"])
    for c in set(weight) & set(classes):
        new_weight[c], new_bias[c] = weight[c], bias[c]
    state["logits.weight"], state["logits.bias"] = _logits_of(classes, new_weight, new_bias)
    network.load_state_dict(state)
    return network


def _rows_of(classes: Sequence[str], weight: Tensor, bias: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return weights and bias of each class; a single logit is that of the second class against 0 for the first."""
    if weight.shape[0] == 1:
        weight, bias = torch.cat([torch.zeros_like(weight), weight]), torch.cat([torch.zeros_like(bias), bias])
    return dict(zip(classes, weight, strict=True)), dict(zip(classes, bias, strict=True))


def _logits_of(classes: Sequence[str], weight: dict[str, Tensor], bias: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the last layer for these classes; undoes `_rows_of`."""
    w, b = torch.stack([weight[c] for c in classes]), torch.stack([bias[c] for c in classes])
    return (w[1:] - w[:1], b[1:] - b[:1]) if len(classes) == 2 else (w, b)
