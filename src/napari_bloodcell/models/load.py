"""Models by name: loaded once per process, device and file."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from napari_bloodcell.core.errors import ModelError
from napari_bloodcell.core.params import OFFICIAL_SAMS
from napari_bloodcell.models.embedded.sam import EmbeddedSam
from napari_bloodcell.models.official.sam import OfficialSam
from napari_bloodcell.models.weights import iter_download

if TYPE_CHECKING:
    from collections.abc import Generator

    from napari_bloodcell.core.protocols import MaskGenerator, Progress

WEIGHTS = Path(__file__).parent.parent / "weights"


def load_generator(model: str, device: str = "auto") -> MaskGenerator:
    """Return the mask generator of this name.

    Parameters
    ----------
    model : str
        "embedded", "vit_b", "vit_l", "vit_h" (downloaded on first use), or the path of a checkpoint: an official one
        (.pth) or one of the embedded SAM (.safetensors).
    device : str
        As in `SegmentParams.device`.

    Raises
    ------
    ModelError
        If there is no such model, or the file is not a model that the program knows.
    """
    path = WEIGHTS / "sam_embedded.safetensors" if model == "embedded" else Path(model).expanduser()
    if model not in OFFICIAL_SAMS and not os.path.isfile(path):
        raise ModelError(
            f'No mask generator {model!r}: give "embedded", one of {", ".join(OFFICIAL_SAMS)}, or the path of a file.'
        )
    stamp = 0 if model in OFFICIAL_SAMS else path.stat().st_mtime_ns
    return _load(model, str(path), device, stamp)


def iter_load_generator(model: str, device: str = "auto") -> Generator[Progress, None, MaskGenerator]:
    """Do as `load_generator`, yielding progress in bytes while official weights are downloaded."""
    if model in OFFICIAL_SAMS:
        yield from iter_download(model)
    return load_generator(model, device)


@lru_cache(maxsize=2)
def _load(model: str, path: str, device: str, _stamp: int) -> MaskGenerator:
    if model in OFFICIAL_SAMS:
        return OfficialSam(model, device=device)
    if _is_embedded(Path(path)):
        return EmbeddedSam(Path(path), device)
    return OfficialSam(path, device=device)


def _is_embedded(path: Path) -> bool:
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("format") == "napari-bloodcell-embedded-sam"
    except (SafetensorError, OSError):
        return False
