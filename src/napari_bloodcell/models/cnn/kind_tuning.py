"""Fine-tunes a model of kinds on the cells that people of one laboratory typed."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_bloodcell.core.errors import TrainingError
from napari_bloodcell.models.cnn.subtypes import SubtypeCnn, SubtypeInfo, SubtypeModel, middle_of, network_of
from napari_bloodcell.models.cnn.training import Fitted
from napari_bloodcell.models.device import pick_device

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_bloodcell.core.params import TrainParams
    from napari_bloodcell.models.cnn.training import Arrays, EpochFigures

BATCH: Final = 16
FEWEST_SEEN: Final = 128
"""Cells of an epoch; where there are fewer, each is seen several times, each time another way."""
RATE: Final = 3e-4
"""Largest step of Adam; it falls to 0 along a cosine."""
LAST_RATE: Final = 2e-3
"""That of the last layer, which may have new kinds to tell."""
HELD_BACK: Final = 1e-3
"""How strongly weights are pulled back to those before (L2-SP)."""
WAY: Final = 0.5
"""How far weights go from those before to the fitted ones (Wortsman et al. 2022): on the way, what is new is known
already, and what was known is not forgotten yet."""
FAR_SHARE: Final = 0.5
"""Share of cells that are shown in the colours of another camera, so that those of others are not forgotten."""
SMOOTHING: Final = 0.05
GLASS: Final = 235 / 255
_AT_ONCE: Final = 64


def fit_kinds(
    train: Arrays,
    val: Arrays,
    start: SubtypeModel,
    *,
    info: SubtypeInfo,
    params: TrainParams,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generator[EpochFigures | None, None, Fitted[SubtypeModel]]:
    """Fit a model of kinds to canvases (N, S, S, 3) uint8 and labels (N,), from the weights of another.

    Yields the figures of each epoch, and None after each step. All layers move, held back by a spring to where they
    were: what another camera changes is in the first as well as in the last. The statistics by which maps are
    normalised stay, as those of a few dozen cells, as many of each kind, are not those of a laboratory. Cells are
    turned, moved, scaled and recoloured anew in each epoch, and each class is seen as often as the others. Of a class
    that is new, the last layer begins at 0.
    """
    device = pick_device(params.device)
    network, size = initial_kinds(info, start).to(device), info.window_px
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    canvases, labels = torch.from_numpy(train[0]).to(device), torch.from_numpy(train[1]).to(device)
    generator = torch.Generator().manual_seed(params.seed)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    last = list(network.logits.parameters())
    others = [p for p in network.parameters() if all(p is not q for q in last)]
    optimiser = torch.optim.Adam([{"params": others, "lr": RATE}, {"params": last, "lr": LAST_RATE}])
    drawn = 1 / torch.bincount(labels)[labels].double().cpu()
    n_seen = max(len(labels), FEWEST_SEEN)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, params.epochs * -(-n_seen // BATCH))
    is_stopped, epoch = False, 0
    while epoch < params.epochs and not is_stopped:
        epoch += 1
        total, right = 0.0, 0
        for rows in torch.split(torch.multinomial(drawn, n_seen, replacement=True, generator=generator), BATCH):
            network.eval()
            network.dropout.train()
            wanted = labels[rows]
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
                sure = _log_of_kinds(network(seen_anew(canvases[rows], size, generator)), info)
            loss = (1 - SMOOTHING) * F.nll_loss(sure, wanted) - SMOOTHING * sure.mean()
            far = torch.stack([((p - before[n]) ** 2).sum() for n, p in network.named_parameters()]).sum()
            optimiser.zero_grad(set_to_none=True)
            (loss + HELD_BACK * far).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 2.0)
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
            right += int((sure.argmax(1) == wanted).sum())
            if not np.isfinite(total):
                raise TrainingError("The training diverged: its loss is no longer a number. Choose other cells.")
            yield None
            if is_stopped := should_stop():
                break
        figures = total / n_seen, right / n_seen
        yield *figures, *(evaluate_kinds(network, *val, info) if len(val[1]) else figures)
    _step_back(network, before, n_known(info, start))
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return Fitted(SubtypeModel(network, info, name="trained", device=device), epoch, is_stopped)


def initial_kinds(info: SubtypeInfo, start: SubtypeModel) -> SubtypeCnn:
    """Return the network of another model with a last layer for these classes."""
    network, n_old = network_of(info), n_known(info, start)
    state = {k: v.detach().cpu().clone() for k, v in start.network.state_dict().items()}
    for name in ("logits.weight", "logits.bias"):
        new = torch.zeros((len(info.classes), *state[name].shape[1:]))
        new[:n_old] = state[name][:n_old]
        state[name] = new
    network.load_state_dict(state)
    return network


def n_known(info: SubtypeInfo, start: SubtypeModel) -> int:
    """Return how many classes, the first ones, are those of `start`: all of its own, or none."""
    old = start.info.classes
    return len(old) if info.refines == start.info.refines and info.classes[: len(old)] == old else 0


def _log_of_kinds(logits: Tensor, info: SubtypeInfo) -> Tensor:
    """Return the logarithms of the probabilities of kinds (N, K) from the logits of classes, which may repeat."""
    kinds = list(dict.fromkeys(info.classes))
    which = torch.tensor([kinds.index(name) for name in info.classes], device=logits.device)
    of_kinds = torch.zeros((len(logits), len(kinds)), device=logits.device)
    return torch.log(of_kinds.index_add(1, which, logits.softmax(1)).clamp(min=1e-9))


@torch.no_grad()
def _step_back(network: SubtypeCnn, before: dict[str, Tensor], n_old: int) -> None:
    """Move weights back towards those before, except those of new classes in the last layer."""
    for name, now in network.named_parameters():
        halfway = torch.lerp(before[name], now, WAY)
        if name.startswith("logits."):
            halfway[n_old:] = now[n_old:]
        now.copy_(halfway)


@torch.no_grad()
def evaluate_kinds(
    network: SubtypeCnn, canvases: NDArray[np.uint8], labels: NDArray[np.int64], info: SubtypeInfo
) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy."""
    network.eval()
    device = next(network.parameters()).device
    windows = middle_of(canvases, info.window_px)
    found = []
    for start in range(0, len(windows), _AT_ONCE):
        some = torch.from_numpy(np.ascontiguousarray(windows[start : start + _AT_ONCE])).to(device)
        found.append(network(some.permute(0, 3, 1, 2).float() / 255))
    sure, wanted = _log_of_kinds(torch.cat(found), info), torch.from_numpy(labels).to(device)
    return float(F.nll_loss(sure, wanted)), float((sure.argmax(1) == wanted).float().mean())


def seen_anew(canvases: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return windows (N, 3, size, size), 0 to 1, of canvases (N, S, S, 3) uint8: turned, moved, scaled, recoloured."""
    n, side = len(canvases), canvases.shape[1]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand((n, *shape), generator=generator) * (high - low) + low

    angle, flip = uniform(0, 2 * np.pi), torch.where(uniform(0, 1) < 0.5, 1.0, -1.0)
    part = torch.exp(uniform(-0.12, 0.12)) * size / side
    cos, sin, shift = torch.cos(angle) * part, torch.sin(angle) * part, uniform(-0.06, 0.06, 2)
    rows = [torch.stack([cos * flip, -sin, shift[:, 0]], 1), torch.stack([sin * flip, cos, shift[:, 1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), [n, 3, size, size], align_corners=False).to(canvases.device)
    x = canvases.permute(0, 3, 1, 2).float() / 255
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    density = -torch.log((x / GLASS).clamp(0.01, 1.08))
    far = torch.where(uniform(0, 1, 1, 1, 1) < FAR_SHARE, 1.0, 0.0)
    matrix = torch.eye(3) + 0.12 * far[:, :, 0] * torch.randn((n, 3, 3), generator=generator)
    near = uniform(-0.12, 0.12, 1, 1, 1) + uniform(-0.08, 0.08, 3, 1, 1)
    gain = torch.exp(near + far * (uniform(-0.35, 0.35, 3, 1, 1) + uniform(-0.35, 0.35, 1, 1, 1)))
    density = torch.einsum("nij,njyx->niyx", matrix.to(x.device), density) * gain.to(x.device)
    return (GLASS * torch.exp(-density)).clamp(0, 1).contiguous(memory_format=torch.channels_last)
