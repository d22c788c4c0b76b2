"""Fine-tunes a classifier on few cells: convolutions stay, dense layers move only as far as the cells require."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Generator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from napari_bloodcell.core.cells import RBC
from napari_bloodcell.core.errors import TrainingError
from napari_bloodcell.core.params import TrainParams
from napari_bloodcell.models.cnn.classifier import ClassifierInfo, CnnClassifier, to_tensor
from napari_bloodcell.models.cnn.network import CellCnn
from napari_bloodcell.models.cnn.training import Arrays, EpochFigures, Fitted, evaluate, initial_network, predicted
from napari_bloodcell.models.device import pick_device

COPIES = 8
"""Every cell is seen in this many variants, itself first."""
RBC_SHARE = 0.9
"""Weight of all red cells together: most cells of a smear are red, so a boundary for equally frequent classes would
misclassify many of them."""
DOUBT = 0.8
"""q of the generalised cross-entropy (1 - p^q) / q: near 0 every cell must be learned, near 1 a cell that contradicts
all others counts as mistyped."""
SURE = 0.9
"""A label is suspected wrong if the classifier gives another class at least this probability."""
_MOST_DOUBTED = 0.25
"""Share of a class's cells that may be in doubt; if there are more, the original classifier is what is wrong."""
_MOST_FITS = 5
_STEPS_PER_EPOCH = 5
_SETTLED = 1e-5
_BATCH = 128
_GLASS = 0.92


def fit_head(
    train: Arrays,
    val: Arrays,
    start: CnnClassifier,
    *,
    params: TrainParams,
    info: ClassifierInfo,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generator[EpochFigures | None, None, Fitted[CnnClassifier]]:
    """Fit the dense layers of a classifier to further cells, held back by a spring to their old weights.

    Yields the figures of each epoch, None in between. Minimises a bounded cross-entropy (Zhang & Sabuncu 2018), so that
    one mistyped cell does not spoil the rest, with red cells weighted as in a smear, plus `anchor` / N × the squared
    distance from the old weights (L2-SP): these count as so many cells, so five corrections move little and hundreds a
    lot. What few cells do not plainly show stays as it was, including classes without cells. The loss of a class
    unknown to `start` is not bounded: all its cells would look mistyped. L-BFGS on features that are computed once
    takes seconds and needs no learning rate.

    A cell is left out if both the original classifier and one fitted to the other cells are sure that it is something
    else: a single red cell, at its weight in a smear, could turn all white ones. If the original classifier is sure of
    another class for more than `_MOST_DOUBTED` of a class's cells, it is wrong about this laboratory: then none of them
    counts as mistyped, and their loss is not bounded (a bounded loss has no gradient for a cell that is called
    something else with certainty, so nothing would be learned).
    """
    device = pick_device(params.device)
    network = initial_network(info.classes, params, start).to(device).channels_last().eval().requires_grad_(False)
    seen, is_stopped = yield from _iter_see(network, train[0], params.seed, should_stop)
    typed = torch.from_numpy(train[1]).to(device)
    n, labels = len(typed), typed.repeat(COPIES)[: len(seen)]
    _begin_new_classes(network, seen, labels, start.classes, info.classes)
    can_doubt = torch.tensor([name in start.classes for name in info.classes], device=device)
    if not is_stopped:
        doubted = _is_sure_of_another(network, seen, typed)
        can_doubt &= _share_of(doubted, typed, len(info.classes)) <= _MOST_DOUBTED
        doubted &= can_doubt[typed]
        wrong = yield from _mistyped(network, seen, labels, doubted, can_doubt, info.classes, params, should_stop)
        kept = ~wrong.repeat(COPIES)
        seen, labels = seen[kept], labels[kept]
    fitting = _fitting(network, seen, labels, can_doubt, info.classes, params.anchor / n)
    epoch = 0
    while epoch < params.epochs and not is_stopped and next(fitting, None) is not None:
        epoch += 1
        yield _figures(network, seen, labels, val)
        is_stopped = should_stop()
    if not epoch:
        yield _figures(network, seen, labels, val)
    network.requires_grad_(False)
    return Fitted(CnnClassifier(network, info, device=device), max(epoch, 1), is_stopped)


def _iter_see(
    network: CellCnn, cutouts: NDArray[np.uint8], seed: int, should_stop: Callable[[], bool]
) -> Generator[None, None, tuple[Tensor, bool]]:
    """Return features (COPIES · N, F) of the cutouts and of variants of them; fewer, and True, after a stop."""
    device, generator = next(network.parameters()).device, torch.Generator().manual_seed(seed)
    features = []
    for variant, begin in itertools.product(range(COPIES), range(0, len(cutouts), _BATCH)):
        batch = to_tensor(cutouts[begin : begin + _BATCH], torch.device("cpu")).float().div_(255.0)
        with torch.no_grad():
            features.append(network.describe((varied(batch, generator) if variant else batch).to(device)).float())
        yield None
        if should_stop():
            return torch.cat(features), True
    return torch.cat(features), False


def _begin_new_classes(
    network: CellCnn, seen: Tensor, labels: Tensor, known: Sequence[str], classes: Sequence[str]
) -> None:
    """Give each new class the last layer of what its cells were taken for: a neutrophil begins as a white cell."""
    if network.logits.out_features < len(classes):  # two classes on one logit
        return
    with torch.no_grad():
        among = torch.tensor([classes.index(name) for name in known], device=labels.device)
        taken_for = torch.softmax(_logits(network, seen)[:, among], 1)
        for k, name in enumerate(classes):
            if name not in known and bool((labels == k).any()):
                shares = taken_for[labels == k].mean(0)
                network.logits.weight[k] = shares @ network.logits.weight[among]
                network.logits.bias[k] = shares @ network.logits.bias[among]


def _fitting(
    network: CellCnn, seen: Tensor, labels: Tensor, can_doubt: Tensor, classes: Sequence[str], pull: float
) -> Generator[float, None, None]:
    """Fit the dense layers to features (N, F), yielding the objective after every few steps until it settles."""
    weights = _cell_weights(labels, classes)
    is_bounded = can_doubt[labels]
    head = [p.requires_grad_(True) for p in (*network.dense.parameters(), *network.logits.parameters())]
    anchors = [p.detach().clone() for p in head]
    optimiser = torch.optim.LBFGS(head, max_iter=_STEPS_PER_EPOCH, line_search_fn="strong_wolfe", history_size=20)

    def objective() -> Tensor:
        optimiser.zero_grad()
        entropy = F.cross_entropy(_logits(network, seen), labels, reduction="none")
        loss = (torch.where(is_bounded, (1 - torch.exp(-DOUBT * entropy)) / DOUBT, entropy) * weights).sum()
        distance = torch.stack([((p - a) ** 2).sum() for p, a in zip(head, anchors, strict=True)]).sum()
        total = loss + pull * distance
        total.backward()  # type: ignore[no-untyped-call]
        return total

    previous = float("inf")
    while True:
        total = float(optimiser.step(objective).detach())  # type: ignore[no-untyped-call]
        if not np.isfinite(total):
            raise TrainingError("The fine-tuning diverged: its loss is no longer a number. Choose a larger anchor.")
        yield total
        if previous - total < _SETTLED * max(abs(total), 1e-3):
            return
        previous = total


def _mistyped(
    network: CellCnn,
    seen: Tensor,
    labels: Tensor,
    doubted: Tensor,
    can_doubt: Tensor,
    classes: Sequence[str],
    params: TrainParams,
    should_stop: Callable[[], bool],
) -> Generator[None, None, Tensor]:
    """Return which of the `doubted` cells (n,) are probably typed by mistake.

    The original classifier is sure that they are something else; so must be one fitted to the other cells.
    """
    typed = labels[: len(doubted)]
    out = torch.zeros_like(doubted)
    cells = torch.nonzero(doubted)[:, 0]
    for group in torch.split(cells, -(-len(cells) // _MOST_FITS)) if len(cells) else ():
        rows = torch.ones_like(doubted)
        rows[group] = False
        witness = copy.deepcopy(network)
        rest = rows.repeat(COPIES)
        fitting = _fitting(witness, seen[rest], labels[rest], can_doubt, classes, params.anchor / len(typed))
        for _ in zip(range(params.epochs), fitting, strict=False):
            yield None
            if should_stop():
                return torch.zeros_like(doubted)
        out[group] = _is_sure_of_another(witness, seen, typed)[group]
    return out


def _share_of(cells: Tensor, typed: Tensor, n_classes: int) -> Tensor:
    """Return the share of each class's cells that are among `cells`, (K,); 0 for classes without cells."""
    return torch.bincount(typed[cells], minlength=n_classes) / torch.bincount(typed, minlength=n_classes).clamp(min=1)


def _is_sure_of_another(network: CellCnn, seen: Tensor, typed: Tensor) -> Tensor:
    """Return for each cell whether a network gives another class than the typed one at least probability `SURE`."""
    with torch.no_grad():
        p = torch.softmax(_logits(network, seen), 1)
        of_cell = p.reshape(COPIES, len(typed), -1).mean(0)
        sure: Tensor = of_cell.scatter(1, typed[:, None], 0.0).amax(1) >= SURE
    return sure


def varied(cutouts: Tensor, generator: torch.Generator) -> Tensor:
    """Return cutouts (N, 3, S, S), 0 to 1, turned, flipped, and slightly varied in size and stain."""
    n = len(cutouts)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand((n, *shape), generator=generator) * (high - low) + low

    angle, flip = uniform(0, 2 * np.pi), torch.where(uniform(0, 1) < 0.5, 1.0, -1.0)
    size = torch.exp(uniform(-0.13, 0.13))
    cos, sin, zero = torch.cos(angle) / size, torch.sin(angle) / size, torch.zeros(n)
    rows = [torch.stack([cos * flip, -sin, zero], 1), torch.stack([sin * flip, cos, zero], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(cutouts.shape), align_corners=False)
    inside = (cutouts.amax(1, keepdim=True) > 0).float()
    cover = F.grid_sample(inside, grid, align_corners=False)
    colour = F.grid_sample(cutouts, grid, align_corners=False) / cover.clamp(min=1e-3)
    density = -torch.log((colour / _GLASS).clamp(0.01, 1.15))
    density = density * torch.exp(uniform(-0.15, 0.15, 1, 1, 1) + uniform(-0.06, 0.06, 3, 1, 1))
    colour = torch.exp(-density) * _GLASS * (1 + uniform(-0.04, 0.04, 1, 1, 1))
    return torch.where(cover > 0.5, colour.clamp(1 / 255, 1), 0.0)


def _logits(network: CellCnn, features: Tensor) -> Tensor:
    """Return K logits (N, K), also if the network has one."""
    logits: Tensor = network.logits(F.relu(network.dense(features)))
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits


def _cell_weights(labels: Tensor, classes: Sequence[str]) -> Tensor:
    """Return a weight per cell, sum 1: `RBC_SHARE` for all red cells, equal parts for the other classes."""
    numbers = torch.bincount(labels, minlength=len(classes))
    others = sum(1 for n, name in zip(numbers.tolist(), classes, strict=True) if n and name != RBC)
    of_class = [RBC_SHARE if name == RBC else (1 - RBC_SHARE) / max(others, 1) for name in classes]
    weights = torch.tensor(of_class, device=labels.device)[labels] / numbers[labels]
    return weights / weights.sum()


def _figures(network: CellCnn, features: Tensor, labels: Tensor, val: Arrays) -> EpochFigures:
    with torch.no_grad():
        logits = _logits(network, features)
        loss, right = float(F.cross_entropy(logits, labels)), float((predicted(logits) == labels).float().mean())
    val_loss, val_accuracy = evaluate(network, *val) if len(val[1]) else (loss, right)
    return loss, right, val_loss, val_accuracy
