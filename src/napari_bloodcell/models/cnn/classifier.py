"""The paper's CNN as a classifier, and its files: safetensors, never pickle."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_bloodcell.core.cells import check_types
from napari_bloodcell.core.errors import READ_ERRORS, ModelError, reason_of
from napari_bloodcell.core.threads import Threads
from napari_bloodcell.models.cnn.network import CUTOUT_SIZE, Architecture, CellCnn
from napari_bloodcell.models.device import autocast, cpu_threads, pick_device, pick_precision
from napari_bloodcell.models.safetensors_file import to_safetensors
from napari_bloodcell.models.weights import CLASSIFIER_FORMAT as FORMAT

_MAX_FILE_BYTES = 2**30
_AT_ONCE = 128
"""Cutouts that go through the network together; more need more memory and are not faster."""


_SURE = 0.95
"""Cells of which it is less sure in bfloat16 are looked at again in float32: their type may depend on the rounding."""


def probabilities_of(logits: Tensor) -> Tensor:
    """Return the probabilities (N, K) of logits (N, 1) or (N, K)."""
    if logits.shape[1] == 1:
        second = torch.sigmoid(logits)
        return torch.cat([1 - second, second], 1)
    return torch.softmax(logits, 1)


def to_tensor(cutouts: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return cutouts (N, S, S, 3) as the network's input: (N, 3, S, S) uint8, channels last, on the device."""
    return torch.from_numpy(np.ascontiguousarray(cutouts)).to(device).permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True)
class ClassifierInfo:
    """Content of a classifier's file besides its weights.

    `classes` are in the order of the columns of `predict`. `rbc_diameter_px` is the width of a red cell in the cutouts,
    `glass_level` that to which the glass was brought, `red_level` the colour to which the typical red cell of each
    smear was; None: as they are, as in the paper. `data_hash` is that of cutouts and labels.
    """

    classes: tuple[str, ...]
    rbc_diameter_px: float | None = None
    glass_level: float | None = None
    red_level: tuple[float, float, float] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    data_hash: str = ""
    report: dict[str, Any] = field(default_factory=dict)


class CnnClassifier:
    """A trained CNN as a `CellClassifier`; takes over `network`. Safe to use from several threads at once."""

    def __init__(
        self,
        network: CellCnn,
        info: ClassifierInfo,
        *,
        name: str = "trained",
        sha256: str | None = None,
        device: str | torch.device = "auto",
        precision: str = "auto",
    ) -> None:
        if network.architecture.n_classes != len(info.classes):
            raise ModelError(f"The network tells {network.architecture.n_classes} classes apart, not {info.classes}.")
        self.name = name
        self.info = info
        self.classes: Sequence[str] = info.classes
        self.rbc_diameter_px = info.rbc_diameter_px
        self.glass_level = info.glass_level
        self.red_level = info.red_level
        self.device = pick_device(device)
        self.precision, self.doubt = pick_precision(precision, self.device)
        self.network = network.eval().requires_grad_(False).to(self.device).channels_last()
        self.sha256 = sha256 or hashlib.sha256(self.to_bytes()).hexdigest()

    def in_precision(self, name: str) -> CnnClassifier:
        """Return this classifier working in another precision."""
        other = copy.copy(self)
        other.precision, other.doubt = pick_precision(name, self.device)
        return other

    @property
    def threads(self) -> Threads | None:
        """Threads in which `predict` may be called at once."""
        return cpu_threads(self.device)

    def predict(self, cutouts: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return probabilities (N, K) float32 for cutouts (N, 128, 128, 3) uint8; `ModelError` for any others."""
        if cutouts.ndim != 4 or cutouts.shape[1:] != (CUTOUT_SIZE, CUTOUT_SIZE, 3) or cutouts.dtype != np.uint8:
            raise ModelError(
                f"Cutouts are {cutouts.dtype} of shape {cutouts.shape}; "
                f"uint8 of shape (N, {CUTOUT_SIZE}, {CUTOUT_SIZE}, 3) is needed."
            )
        out = np.empty((len(cutouts), len(self.classes)), np.float32)
        for start in range(0, len(cutouts), _AT_ONCE):
            some = cutouts[start : start + _AT_ONCE]
            found = self._probabilities(some, self.precision)
            if self.precision != "float32" and (doubtful := found.max(1) < _SURE).any():
                found[doubtful] = self._probabilities(some[doubtful], "float32")
            out[start : start + _AT_ONCE] = found
        return out

    def _probabilities(self, cutouts: NDArray[np.uint8], precision: str) -> NDArray[np.float32]:
        with torch.inference_mode(), autocast(self.device, precision):
            extents = torch.from_numpy(cutout_extents(cutouts)).to(self.device)
            logits = self.network.decide(self.network.describe(to_tensor(cutouts, self.device), extents))
            return np.asarray(probabilities_of(logits).cpu().numpy(), np.float32)

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
    def load(
        cls, path: str | Path, *, name: str | None = None, device: str | torch.device = "auto", precision: str = "auto"
    ) -> CnnClassifier:
        """Read a file written by `save`; `ModelError` if it is none. Nothing in it is executed."""
        path = Path(path)
        data = _read(path)
        architecture, info = _describe(path, data)
        with torch.device("meta"):  # only shapes: a file may describe a network that is larger than memory
            shapes = {k: tuple(v.shape) for k, v in CellCnn(architecture).state_dict().items()}
        state = _tensors(path, data, shapes)
        network = CellCnn(architecture)
        network.load_state_dict(state)
        sha256 = hashlib.sha256(data).hexdigest()
        return cls(network, info, name=name or path.stem, sha256=sha256, device=device, precision=precision)


def cutout_extents(cutouts: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return `cell_extents` of cutouts (N, S, S, 3) uint8, (N,), reading eight bytes of a row at a time."""
    n, size = cutouts.shape[:2]
    words = np.ascontiguousarray(cutouts).reshape(n, size, 3 * size).view(np.uint64)
    rows = np.bitwise_or.reduce(words, axis=2) != 0
    columns = np.bitwise_or.reduce(words, axis=1).view(np.uint8).reshape(n, size, 3).any(2)
    from_centre = np.abs(np.arange(size) - (size - 1) / 2) + 0.5
    return np.asarray(((rows | columns) * from_centre).max(1, initial=0), np.float32)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ModelError(f"{path} is larger than any classifier of this program ({_MAX_FILE_BYTES} bytes).")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: not a possible file name
        raise ModelError(f"The classifier {str(path)!r} cannot be read ({reason_of(error)}).") from error


def _describe(path: Path, data: bytes) -> tuple[Architecture, ClassifierInfo]:
    """Return the checked content of the file's header."""
    try:
        length = int.from_bytes(data[:8], "little")
        if 8 + length > len(data):
            raise ValueError("it has no header")
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        if metadata["format"] != FORMAT:
            raise ValueError(f"its format is {metadata['format']!r}, not {FORMAT!r}")
        described: dict[str, Any] = json.loads(metadata["classifier"])
        architecture = _checked_architecture(described["architecture"])
        info = _checked_info(described, architecture.n_classes)
    except READ_ERRORS as error:
        raise ModelError(
            f"{path} is not a classifier of this program ({type(error).__name__}: {reason_of(error)}). "
            "Only safetensors files written by its training are read; files of other programs, and pickled ones, "
            "never are."
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
    if (
        len(classes) != n_classes
        or len(set(classes)) != n_classes
        or not all(isinstance(c, str) and c for c in classes)
    ):
        raise ValueError(f"{n_classes} different names of classes are needed, not {classes}")
    check_types(classes)
    numbers = {}
    for key in ("rbc_diameter_px", "glass_level"):
        value = given.get(key)
        if value is not None and not (isinstance(value, int | float) and 0 < value < 1e4):
            raise ValueError(f"{key} is {value!r}")
        numbers[key] = None if value is None else float(value)
    red_level = given.get("red_level")
    if red_level is not None:
        r, g, b = map(float, red_level)
        if not all(0 < v < 256 for v in (r, g, b)):
            raise ValueError(f"red_level is {red_level!r}")
        red_level = r, g, b
    return ClassifierInfo(
        classes=classes,
        red_level=red_level,
        settings=dict(given.get("settings", {})),
        data_hash=str(given.get("data_hash", "")),
        report=dict(given.get("report", {})),
        **numbers,
    )


def _tensors(path: Path, data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return the file's tensors as float32, if they are exactly those of the network and finite."""
    try:
        stored: list[tuple[str, dict[str, Any]]] = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise ModelError(f"{path} is damaged ({reason_of(error)}). Take it from its source again.") from error
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
