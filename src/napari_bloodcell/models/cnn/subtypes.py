"""Which kind of a type a cell is, told from a window of its surroundings: differential, shapes, parasites."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from napari_bloodcell.core.errors import READ_ERRORS, ModelError, reason_of
from napari_bloodcell.core.files import write_bytes
from napari_bloodcell.models.device import pick_device
from napari_bloodcell.models.safetensors_file import to_safetensors
from napari_bloodcell.models.weights import KINDS_FORMAT as FORMAT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

WINDOW_PX: Final = 128
"""Side of the window around the middle of a cell, unless a model's file says otherwise."""
WIDTHS: Final = (32, 48, 96, 160)
"""Channels of the stages, each at half the resolution of the one before, likewise."""
DAMAGED: tuple[type[Exception], ...] = (SafetensorError, *READ_ERRORS)
_AT_ONCE = 8
"""Windows go through the network in full batches of this size: float rounding depends on the batch's size, and what a
cell is must not depend on how many others there are."""
_TURNS = 4
"""Quarter turns over which the answer is averaged."""


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(width, width), _convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


def _convolution(n_in: int, n_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out))


class SubtypeCnn(nn.Module):
    """Four stages of 3×3 convolutions, each halving the resolution; residual from the second on; mean and maximum."""

    def __init__(self, n_classes: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for n_in, n_out in zip((3, *widths[:-1]), widths, strict=True):
            stages += [_convolution(n_in, n_out, stride=2), nn.ReLU(inplace=True)]
            stages += [_Residual(n_out)] if n_in != 3 else []
        self.stages = nn.Sequential(*stages)
        self.hidden = nn.Linear(2 * widths[-1], 64)
        self.dropout = nn.Dropout(0.3)
        self.logits = nn.Linear(64, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, K) of windows (N, 3, Y, X), 0 to 1."""
        maps = self.stages((x - 0.6) / 0.25)
        seen = torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1)
        out: Tensor = self.logits(self.dropout(F.relu(self.hidden(seen))))
        return out


@dataclass(frozen=True, slots=True)
class SubtypeInfo:
    """What a model's file says beside its weights.

    `classes` are kinds of the type `refines`; of one name they are one kind, and of a cell that is "" the model has
    nothing to say. Windows are cut where a red cell is `rbc_diameter_px` wide, with the glass at `glass_level` and the
    typical red cell of the smear at `red_level`; None: in its own colour. Logits are divided by `temperature`, which
    makes probabilities of them that hold. `seen` is the range that `stages.cutouts.measures_of_smear` gave of the
    smears it was trained on; {} where that is not known.
    """

    refines: str
    classes: tuple[str, ...]
    rbc_diameter_px: float
    glass_level: float
    red_level: tuple[float, float, float] | None
    temperature: float = 1.0
    window_px: int = WINDOW_PX
    widths: tuple[int, ...] = WIDTHS
    seen: dict[str, tuple[float, float]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)


def network_of(info: SubtypeInfo) -> SubtypeCnn:
    """Return an untrained network as `info` describes it."""
    return SubtypeCnn(len(info.classes), info.widths)


def middle_of(windows: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return the middle (N, size, size, 3) of windows (N, S, S, 3)."""
    margin = (windows.shape[1] - size) // 2
    return windows[:, margin : margin + size, margin : margin + size]


class SubtypeModel:
    """A trained `SubtypeCnn`; `network` is taken over."""

    def __init__(
        self,
        network: SubtypeCnn,
        info: SubtypeInfo,
        *,
        name: str,
        sha256: str = "",
        device: str | torch.device = "auto",
    ) -> None:
        self.name, self.info = name, info
        self.device = pick_device(device)
        self.network = network.eval().requires_grad_(False).to(self.device)
        self.sha256 = sha256 or hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def classes(self) -> tuple[str, ...]:
        """As `kinds`: what classifiers call them."""
        return self.kinds

    @property
    def view(self) -> dict[str, Any]:
        """How it sees cells, as arguments of `cut_windows`."""
        info = self.info
        levels = {"glass_level": info.glass_level, "red_level": info.red_level}
        return {"size": info.window_px, "rbc_diameter_px": info.rbc_diameter_px, **levels}

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that it tells: `classes` without repeats."""
        return tuple(dict.fromkeys(self.info.classes))

    def predict(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return probabilities (N, K) float32 of `kinds` for windows (N, Y, X, 3) uint8, whatever their company.

        Of larger windows the middle is seen.
        """
        windows = middle_of(windows, min(self.info.window_px, windows.shape[1]))
        out = np.empty((len(windows), len(self.kinds)), np.float32)
        for start in range(0, len(windows), _AT_ONCE):
            some = windows[start : start + _AT_ONCE]
            whole = np.zeros((_AT_ONCE, *windows.shape[1:]), np.uint8)
            whole[: len(some)] = some
            out[start : start + len(some)] = self._probabilities(whole)[: len(some)]
        return out

    @torch.inference_mode()
    def _probabilities(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        x = torch.from_numpy(windows).to(self.device).permute(0, 3, 1, 2).float() / 255
        turned = (self.network(torch.rot90(x, k, (2, 3))) for k in range(_TURNS))
        logits = torch.stack(list(turned)).double().mean(0) / self.info.temperature
        of_classes = logits.softmax(1).float().cpu().numpy()
        of_kinds = np.zeros((len(windows), len(self.kinds)), np.float32)
        np.add.at(of_kinds.T, [self.kinds.index(name) for name in self.info.classes], of_classes.T)
        return of_kinds

    def to_bytes(self) -> bytes:
        """Return the safetensors file of this model, weights as float16."""
        state = {k: v.detach().cpu() for k, v in self.network.state_dict().items()}
        state = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}
        return to_safetensors(state, {"format": FORMAT, "subtypes": json.dumps(asdict(self.info), sort_keys=True)})

    def save(self, path: str | Path) -> str:
        """Write the file, whole or not at all, and return its sha256."""
        data = self.to_bytes()
        write_bytes(Path(path), data)
        return hashlib.sha256(data).hexdigest()

    @classmethod
    def load(cls, path: str | Path, *, name: str | None = None, device: str | torch.device = "auto") -> SubtypeModel:
        """Read a file that `to_bytes` gave; `ModelError` if it is none. Nothing in it is executed."""
        path = Path(path)
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
            known = {entry.name for entry in fields(SubtypeInfo)}  # files of other versions may say more
            said = {name: value for name, value in json.loads(metadata["subtypes"]).items() if name in known}
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in said.items()}
            values["seen"] = {name: tuple(limits) for name, limits in said.get("seen", {}).items()}
            info = SubtypeInfo(**values)
            network = network_of(info)
            network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
        except DAMAGED as error:
            raise ModelError(f"{path} is no model of subtypes of this program: {reason_of(error)}.") from error
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        return cls(network, info, name=name or path.stem, sha256=sha256, device=device)
