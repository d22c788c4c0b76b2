"""Models by name or file: the one place where they are found, fetched and loaded. Torch is imported with the first."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING

from napari_bloodcell.core.errors import ModelError
from napari_bloodcell.core.files import expanded
from napari_bloodcell.models import weights

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from napari_bloodcell.core.protocols import MaskGenerator, Progress
    from napari_bloodcell.models.cnn.classifier import CnnClassifier


def load_generator(model: str = "embedded", device: str = "auto", precision: str = "auto") -> MaskGenerator:
    """Return a mask generator; the same one again while it is among the last two and its file has not changed.

    Parameters
    ----------
    model : str
        One of `weights.GENERATORS` (official ones are downloaded on first use), or the path of a checkpoint: an
        official SAM's (.pth) or one of the embedded SAM (.safetensors).
    device, precision : str
        As in `SegmentParams`.

    Raises
    ------
    ModelError
        If there is no such model, or the file is not a model that the program knows.
    """
    if model in weights.OFFICIAL:
        return _load_generator(model, None, device, precision, 0)
    file = weights.find(weights.GENERATORS[model]).path if model in weights.GENERATORS else expanded(model)
    if not os.path.isfile(file):
        raise ModelError(f"No mask generator {model!r}: give {_either(weights.GENERATORS)}, or the path of a file.")
    return _load_generator(model, file, device, precision, file.stat().st_mtime_ns)


def iter_load_generator(
    model: str, device: str = "auto", precision: str = "auto"
) -> Generator[Progress, None, MaskGenerator]:
    """Do as `load_generator`, yielding progress in bytes while official weights are downloaded."""
    if model in weights.OFFICIAL:
        yield from weights.iter_download(model)
    return load_generator(model, device, precision)


def load_classifier(model: str | Path = "embedded", device: str = "auto", precision: str = "auto") -> CnnClassifier:
    """Return a classifier: one of `weights.CLASSIFIERS`, or that of a .safetensors file that training wrote.

    Raises
    ------
    ModelError
        If there is no such model, or the file is no classifier of this program.
    DeviceError
        If this machine has no such device.
    """
    from napari_bloodcell.models.cnn.classifier import CnnClassifier

    if model in weights.CLASSIFIERS:
        file = weights.find(weights.CLASSIFIERS[str(model)]).path
        return CnnClassifier.load(file, name=str(model), device=device, precision=precision)
    if not os.path.isfile(model):
        raise ModelError(f"No classifier {str(model)!r}: give {_either(weights.CLASSIFIERS)}, or the path of a file.")
    return CnnClassifier.load(model, device=device, precision=precision)


@lru_cache(maxsize=2)
def _load_generator(model: str, file: Path | None, device: str, precision: str, _changed_ns: int) -> MaskGenerator:
    from napari_bloodcell.models.embedded.sam import EmbeddedSam, is_embedded_sam
    from napari_bloodcell.models.official.sam import OfficialSam

    if file is not None and is_embedded_sam(file):
        return EmbeddedSam(file, device, precision)
    return OfficialSam(file or model, device=device, precision=precision)


def _either(names: dict[str, str]) -> str:
    return " or ".join(f'"{name}"' for name in names)
