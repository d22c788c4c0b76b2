"""The torch half of training a classifier: arrays and settings in, a trained `CnnClassifier` out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from napari_bloodcell.backends.cnn import ClassifierInfo, CnnClassifier, load_classifier, to_tensor
from napari_bloodcell.backends.cnn_network import Architecture, CellCnn
from napari_bloodcell.backends.device import autocast, pick_device
from napari_bloodcell.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_bloodcell.params import TrainParams

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
    optimiser = torch.optim.Adam(network.parameters(), lr=params.learning_rate, fused=device.type != "mps")
    order = np.random.default_rng(params.seed)
    best_loss, best_epoch, best_state, waited, is_stopped = np.inf, 0, None, 0, False
    for epoch in range(params.epochs):
        seed = params.seed * 100_003 + epoch
        figures = yield from _epoch(network, optimiser, train, order, params, seed=seed, should_stop=should_stop)
        val_loss, val_accuracy = evaluate(network, *val) if len(val[1]) else (figures[0], figures[1])
        yield (figures[0], figures[1], val_loss, val_accuracy)
        if not len(val[1]) or val_loss < best_loss:
            best_loss, best_epoch, waited = val_loss, epoch + 1, 0
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


def _epoch(
    network: CellCnn,
    optimiser: torch.optim.Optimizer,
    data: Arrays,
    order: np.random.Generator,
    params: TrainParams,
    seed: int,
    should_stop: Callable[[], bool],
) -> Generator[None, None, tuple[float, float]]:
    """Pass once over the training part, or over what of it comes before a stop; return mean loss and accuracy."""
    cutouts, labels = data
    device = next(network.parameters()).device
    generator_state = _seeded(seed)
    total, right, seen, last = 0.0, 0, 0, time.monotonic()
    rows = order.permutation(len(labels))
    for begin in range(0, len(rows), params.batch_size):
        batch = np.sort(rows[begin : begin + params.batch_size])
        target = torch.from_numpy(labels[batch]).to(device)
        with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator; leave the caller's alone
            torch.set_rng_state(generator_state)
            network.train()
            optimiser.zero_grad(set_to_none=False)  # memory for 13 million gradients is not asked for anew
            with autocast(device):
                logits = network(to_tensor(_shifted(cutouts[batch], params.shift_px, order), device))
            loss = loss_of(logits, target)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            generator_state = torch.get_rng_state()
        value = float(loss.detach())
        if not np.isfinite(value):
            raise TrainingError(
                "The training diverged: its loss is no longer a number. Choose a smaller learning_rate."
            )
        total, seen = total + value * len(batch), seen + len(batch)
        right += int((predicted(logits) == target).sum())
        if should_stop():
            break
        if time.monotonic() - last > _BREATH_S:
            yield None
            last = time.monotonic()
    return total / seen, right / seen


def _shifted(cutouts: NDArray[np.uint8], most: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return cutouts (N, S, S, 3) moved at random by up to `most` pixels; what is moved out is lost."""
    out = np.zeros_like(cutouts)
    for new, old, (dy, dx) in zip(out, cutouts, rng.integers(-most, most + 1, (len(cutouts), 2)), strict=True):
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
