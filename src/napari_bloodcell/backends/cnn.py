"""The paper's CNN (Fig. 3), its smaller sibling that ships as the default, and their files (safetensors, never pickle)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from napari_bloodcell.backends.device import autocast, pick_device
from napari_bloodcell.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

FORMAT = "napari-bloodcell-cnn/1"
CUTOUT_SIZE = 128
CHANNELS = (32, 64, 128)
"""Of the three convolutions (Fig. 3)."""
WEIGHTS_FOLDER = Path(__file__).parents[1] / "weights"
EMBEDDED_FILES = {"embedded": "cnn_embedded.safetensors", "paper": "cnn_paper.safetensors"}
_MAX_FILE_BYTES = 2**30
_WINDOWS = (48, 64, 80, 96, 112, 128)
"""Sides, pixels, to which cutouts may be trimmed: the pooling grid stays where it is in 128."""
_STRIDE, _FIELD_PX = 8, 22
"""Of the last feature map: pixels from place to place, and pixels that a place sees."""
_POOL_RIM_PX, _FLATTEN_RIM_PX = 9, 16
"""Black that must lie around a cell in a window: so that the map covers it, and so that all that sees it is within."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the network looks like.

    Attributes
    ----------
    head : str
        "flatten": Fig. 3, every place of the last feature map has weights of its own. "pool": sum, mean and maximum
        of the feature map over the cell, which is smaller, and indifferent to how much black is around the cell.
    dense_units : int
        Width of the dense layer.
    dropout : float
        Share of dense units dropped in training.
    n_classes : int
        2 gives one logit, K > 2 gives K.
    """

    head: Literal["flatten", "pool"] = "flatten"
    dense_units: int = 128
    dropout: float = 0.2
    n_classes: int = 2


class CellCnn(nn.Module):
    """Three 3×3 convolutions of 32, 64, 128 channels, each with ReLU and 2×2 max-pooling; dense + ReLU; dropout; logits.

    Convolutions are not padded, as in the authors' published code: a cutout of 128 px gives a map of 14×14×128.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        layers: list[nn.Module] = []
        for n_in, n_out in zip((3, *CHANNELS[:-1]), CHANNELS, strict=True):
            layers += [nn.Conv2d(n_in, n_out, 3), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        side = feature_side(CUTOUT_SIZE)
        n_features = 3 * CHANNELS[-1] if architecture.head == "pool" else CHANNELS[-1] * side * side
        self.dense = nn.Linear(n_features, architecture.dense_units)
        self.dropout = nn.Dropout(architecture.dropout)
        n_logits = 1 if architecture.n_classes == 2 else architecture.n_classes
        self.logits = nn.Linear(architecture.dense_units, n_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, 1) or (N, K) float32 for cutouts (N, 3, 128, 128), 0 to 1.

        The convolutions run on windows that just hold the cells; what black would give is filled in. The result is
        that of the whole cutouts, several times sooner.
        """
        rim = _POOL_RIM_PX if self.architecture.head == "pool" else _FLATTEN_RIM_PX
        parts: list[Tensor] = []
        places: list[Tensor] = []
        sides = _window_sides(x, rim)
        for side in sides.unique().tolist():
            rows = torch.nonzero(sides == side)[:, 0]
            a = (CUTOUT_SIZE - side) // 2
            window = x[rows, :, a : a + side, a : a + side].contiguous(memory_format=torch.channels_last)
            parts.append(self._described(window))
            places.append(rows)
        order = torch.argsort(torch.cat(places))
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = self.logits(self.dropout(F.relu(self.dense(torch.cat(parts)[order]))))
        return out

    def _described(self, window: Tensor) -> Tensor:
        """Return what the dense layer sees of cutouts trimmed to a window."""
        maps = self.features(window).float()
        if self.architecture.head == "pool":
            return _pool_over_cell(maps, window)
        full, n = feature_side(CUTOUT_SIZE), maps.shape[-1]
        if n < full:
            black = self.features(window.new_zeros(1, 3, _FIELD_PX, _FIELD_PX)).float()
            a = (CUTOUT_SIZE - window.shape[-1]) // 2 // _STRIDE
            whole = black.expand(len(maps), -1, full, full).clone()
            whole[:, :, a : a + n, a : a + n] = maps
            maps = whole
        return maps.flatten(1)


def feature_side(side: int) -> int:
    """Return the side of the last feature map of a cutout of this side."""
    for _ in CHANNELS:
        side = (side - 2) // 2
    return side


def _window_sides(x: Tensor, rim: int) -> Tensor:
    """Return for each cutout (N, 3, 128, 128) the side of the smallest window that holds its cell and a rim, (N,)."""
    if len(x) == 0:
        return torch.full((1,), _WINDOWS[0], device=x.device)[:0]
    inside = x.amax(1) > 0
    from_centre = (torch.arange(CUTOUT_SIZE, device=x.device) - (CUTOUT_SIZE - 1) / 2).abs() + 0.5
    extent = torch.maximum(
        (inside.any(1) * from_centre).amax(1),
        (inside.any(2) * from_centre).amax(1),
    )
    limits = torch.tensor(_WINDOWS[:-1], device=x.device) / 2 - rim
    return torch.tensor(_WINDOWS, device=x.device)[torch.searchsorted(limits, extent)]


def _pool_over_cell(maps: Tensor, x: Tensor) -> Tensor:
    """Return sum, mean and maximum of the maps (N, C, n, n) over the cell, (N, 3C)."""
    n = maps.shape[-1]
    inside = (x.amax(1, keepdim=True) > 0).float()
    cover = F.avg_pool2d(inside[..., 7 : 7 + 8 * n, 7 : 7 + 8 * n], 8)  # the middle of each place's field of view
    weighted = (maps * cover).sum((2, 3))
    total = cover.sum((2, 3))
    highest = (maps * (cover > 0)).amax((2, 3))  # ReLU'd maps are never negative
    return torch.cat([weighted / 8.0, weighted / total.clamp_min(1 / 64), highest], 1)


def probabilities_of(logits: Tensor) -> Tensor:
    """Return probabilities (N, K) of logits (N, 1) or (N, K)."""
    if logits.shape[1] == 1:
        second = torch.sigmoid(logits)
        return torch.cat([1 - second, second], 1)
    return torch.softmax(logits, 1)


def to_tensor(cutouts: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return cutouts (N, S, S, 3) uint8 as (N, 3, S, S) float32, 0 to 1, channels last."""
    return torch.from_numpy(np.ascontiguousarray(cutouts)).to(device).permute(0, 3, 1, 2).float().div_(255.0)


@dataclass(frozen=True, slots=True)
class ClassifierInfo:
    """What a classifier's file says beside its weights.

    Attributes
    ----------
    classes : tuple of str
        Names in the order of the columns of `predict`.
    rbc_diameter_px : float or None
        Width of a red cell in the cutouts it was trained on; None: any, as in the paper.
    glass_level : float or None
        Level to which the glass was brought before cutting; None: colours were left as they are.
    settings : dict
        Of the training.
    data_hash : str
        sha256 of the cutouts and labels it was trained on.
    report : dict
        Losses, accuracies and per-class figures.
    """

    classes: tuple[str, ...]
    rbc_diameter_px: float | None = None
    glass_level: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    data_hash: str = ""
    report: dict[str, Any] = field(default_factory=dict)


class CnnClassifier:
    """A trained CNN as a `CellClassifier`. Safe to use from several threads at once.

    Parameters
    ----------
    network : CellCnn
        Taken over: moved to the device and set to evaluation.
    info : ClassifierInfo
        Classes and provenance.
    name : str
        For recipes and messages.
    sha256 : str, optional
        Of the file it came from; by default of the file it would be saved to.
    device : str or torch.device
        "auto", "cpu", "cuda", "cuda:1", "mps".
    """

    def __init__(
        self,
        network: CellCnn,
        info: ClassifierInfo,
        *,
        name: str = "trained",
        sha256: str | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        if network.architecture.n_classes != len(info.classes):
            raise ModelError(f"The network tells {network.architecture.n_classes} classes apart, not {info.classes}.")
        self.name = name
        self.info = info
        self.classes: Sequence[str] = info.classes
        self.rbc_diameter_px = info.rbc_diameter_px
        self.glass_level = info.glass_level
        self.device = pick_device(device)
        self.network = network.eval().requires_grad_(False).to(self.device).to(memory_format=torch.channels_last)
        self.sha256 = sha256 or hashlib.sha256(self.to_bytes()).hexdigest()

    def predict(self, cutouts: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return probabilities (N, K) float32 for cutouts (N, 128, 128, 3) uint8.

        Raises
        ------
        ModelError
            If the cutouts have another shape or dtype.
        """
        if cutouts.ndim != 4 or cutouts.shape[1:] != (CUTOUT_SIZE, CUTOUT_SIZE, 3) or cutouts.dtype != np.uint8:
            raise ModelError(
                f"Cutouts are {cutouts.dtype} of shape {cutouts.shape}; "
                f"uint8 of shape (N, {CUTOUT_SIZE}, {CUTOUT_SIZE}, 3) is needed."
            )
        out = np.empty((len(cutouts), len(self.classes)), np.float32)
        for start in range(0, len(cutouts), 256):
            out[start : start + 256] = self._probabilities(cutouts[start : start + 256])
        return out

    def _probabilities(self, cutouts: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode(), autocast(self.device):
            logits = self.network(to_tensor(cutouts, self.device))
            return probabilities_of(logits).cpu().numpy()

    def to_bytes(self, dtype: Literal["float32", "float16"] = "float32") -> bytes:
        """Return the safetensors file of this classifier."""
        kind = {"float32": torch.float32, "float16": torch.float16}[dtype]
        state = {k: v.detach().to("cpu", kind).contiguous() for k, v in self.network.state_dict().items()}
        described = {"architecture": asdict(self.network.architecture), **asdict(self.info)}
        return to_safetensors(state, {"format": FORMAT, "classifier": json.dumps(described, sort_keys=True)})

    def save(self, path: str | Path, *, dtype: Literal["float32", "float16"] = "float32") -> str:
        """Write the classifier as safetensors, whole or not at all, and return the file's sha256.

        `dtype` float16 halves the file and rounds the weights.
        """
        path = Path(path)
        data = self.to_bytes(dtype)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        try:
            partial.write_bytes(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return hashlib.sha256(data).hexdigest()

    @classmethod
    def load(cls, path: str | Path, *, name: str | None = None, device: str | torch.device = "auto") -> CnnClassifier:
        """Read a classifier from a safetensors file that `save` wrote.

        Raises
        ------
        ModelError
            If there is no such file, or it is no classifier of this program; nothing in it is executed.
        """
        path = Path(path)
        data = _read(path)
        architecture, info = _describe(path, data)
        network = CellCnn(architecture)
        state = _tensors(path, data, {k: tuple(v.shape) for k, v in network.state_dict().items()})
        network.load_state_dict(state)
        sha256 = hashlib.sha256(data).hexdigest()
        return cls(network, info, name=name or path.stem, sha256=sha256, device=device)


def load_classifier(model: str | Path = "embedded", device: str | torch.device = "auto") -> CnnClassifier:
    """Return a classifier by name ("embedded", "paper") or from a .safetensors file.

    Raises
    ------
    ModelError
        If there is no such name or file, or the file is no classifier of this program.
    DeviceError
        If this machine has no such device.
    """
    file = EMBEDDED_FILES.get(str(model))
    if file is not None:
        return CnnClassifier.load(WEIGHTS_FOLDER / file, name=str(model), device=device)
    return CnnClassifier.load(model, device=device)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ModelError(f"{path} is larger than any classifier of this program ({_MAX_FILE_BYTES} bytes).")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"The classifier {str(path)!r} cannot be read ({error.strerror or error}). Give "
            f"{' or '.join(map(repr, EMBEDDED_FILES))}, or the path of a .safetensors file that training wrote."
        ) from error


def _describe(path: Path, data: bytes) -> tuple[Architecture, ClassifierInfo]:
    """Return what the file's header says, checked."""
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length]) if 8 + length <= len(data) else None
        metadata = header["__metadata__"]
        if metadata["format"] != FORMAT:
            raise ValueError(f"its format is {metadata['format']!r}, not {FORMAT!r}")
        described: dict[str, Any] = json.loads(metadata["classifier"])
        architecture = _checked_architecture(described["architecture"])
        info = _checked_info(described, architecture.n_classes)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{path} is not a classifier of this program ({type(error).__name__}: {error}). Only safetensors files "
            "written by its training are read; files of other programs, and pickled ones, never are."
        ) from error
    return architecture, info


def _checked_architecture(given: Mapping[str, Any]) -> Architecture:
    architecture = Architecture(**given)
    sizes = (architecture.dense_units, architecture.n_classes)
    if architecture.head not in ("flatten", "pool") or not all(type(v) is int for v in sizes):
        raise ValueError(f"unknown architecture {given}")
    if not (1 <= architecture.dense_units <= 65536 and 2 <= architecture.n_classes <= 1000):
        raise ValueError(f"impossible architecture {given}")
    if not 0 <= float(architecture.dropout) < 1:
        raise ValueError(f"impossible dropout {architecture.dropout}")
    return architecture


def _checked_info(given: Mapping[str, Any], n_classes: int) -> ClassifierInfo:
    classes = tuple(given["classes"])
    if len(classes) != n_classes or len(set(classes)) != n_classes or not all(isinstance(c, str) and c for c in classes):
        raise ValueError(f"{n_classes} different names of classes are needed, not {classes}")
    numbers = {}
    for key in ("rbc_diameter_px", "glass_level"):
        value = given.get(key)
        if value is not None and not (isinstance(value, int | float) and 0 < value < 1e4):
            raise ValueError(f"{key} is {value!r}")
        numbers[key] = None if value is None else float(value)
    return ClassifierInfo(
        classes=classes,
        settings=dict(given.get("settings", {})),
        data_hash=str(given.get("data_hash", "")),
        report=dict(given.get("report", {})),
        **numbers,
    )


def _tensors(path: Path, data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return the file's tensors as float32 if they are exactly those of the network, and finite."""
    try:
        stored = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise ModelError(f"{path} is damaged ({error}). Take it from its source again.") from error
    kinds = {"F32": np.float32, "F16": np.float16}
    found = {name: tuple(entry["shape"]) for name, entry in stored}
    if found != dict(shapes) or any(entry["dtype"] not in kinds for _, entry in stored):
        raise ModelError(f"{path} does not hold the weights of the network that it describes: {found}.")
    state = {}
    for name, entry in stored:
        values = np.frombuffer(entry["data"], kinds[entry["dtype"]]).reshape(entry["shape"]).astype(np.float32)
        if not np.isfinite(values).all():
            raise ModelError(f"{path} is damaged: the weights {name!r} are not all finite.")
        state[name] = torch.from_numpy(values)
    return state
