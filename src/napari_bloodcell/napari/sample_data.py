"""Sample data for napari's File menu, as napari's layer data: no napari is imported."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import numpy as np

from napari_bloodcell.core.cells import BUILTIN_TYPES, TYPE_COLOURS
from napari_bloodcell.core.errors import DownloadError
from napari_bloodcell.core.progress import drain
from napari_bloodcell.synthetic import load_shipped

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from napari_bloodcell.core.protocols import Progress
    from napari_bloodcell.napari.pyramids import LayerData

BCCD_URL: Final = "https://raw.githubusercontent.com/Shenggan/BCCD_Dataset/master/BCCD/JPEGImages/BloodImage_00000.jpg"
"""A real field of the BCCD data set (MIT licence), 640×480 px."""
BCCD_SHA256: Final = "e1dcc488889acba247a895df7be839e514850030217b4025048619f664fd4cb3"
_BCCD_BYTES: Final = 16_000  # about; the server says how many


def shipped_smear() -> list[LayerData]:
    """Return the shipped smear as one RGB image layer."""
    image, _ = load_shipped()
    return [(image, {"name": "smear", "rgb": True}, "image")]


def shipped_smear_with_truth() -> list[LayerData]:
    """Return the shipped smear, its cells with the table of truth as features, and the typed cells."""
    image, truth = load_shipped()
    features = truth["table"].reset_index(names="index")
    colours = {None: "transparent"} | {i + 1: TYPE_COLOURS[name] for i, name in enumerate(BUILTIN_TYPES)}
    return [
        (image, {"name": "smear", "rgb": True}, "image"),
        (truth["cells"], {"name": "true cells", "features": features, "visible": False}, "labels"),
        (truth["types"], {"name": "true types", "colormap": colours, "opacity": 0.4}, "labels"),
    ]


def bccd_field() -> list[LayerData]:
    """Return a real field, downloaded when it is first asked for.

    Raises
    ------
    DownloadError
        Without network, or if what came is not that field.
    """
    from PIL import Image

    with Image.open(download_bccd()) as picture:
        image = np.asarray(picture.convert("RGB"))
    return [(image, {"name": "BCCD field", "rgb": True}, "image")]


def download_bccd(progress: Callable[[Progress], object] | None = None) -> Path:
    """Return the path of the BCCD field, fetching it into the cache folder unless it is there already.

    Raises
    ------
    DownloadError
        Without network, without a folder to write to, or if what came is not that field.
    """
    return drain(iter_download_bccd(), progress)


def iter_download_bccd() -> Generator[Progress, None, Path]:
    """Do as `download_bccd`, yielding progress in bytes."""
    from napari_bloodcell.models.download import TransferError, iter_receive
    from napari_bloodcell.models.weights import CACHE_VARIABLE

    path = _bccd_path()
    if has_bccd():
        return path
    advice = f"Fetch {BCCD_URL} by other means and put it into {path.parent} ({CACHE_VARIABLE} sets another folder)."
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        yield from iter_receive(BCCD_URL, part, size_bytes=_BCCD_BYTES, what=f"downloading {path.name}")
        found = _sha256(part)
        if found != BCCD_SHA256:
            part.unlink()
            raise DownloadError(
                f"What came from {BCCD_URL} is not the BCCD field: its SHA-256 is {found}, expected {BCCD_SHA256}. "
                f"{advice}"
            )
        part.replace(path)
    except TransferError as error:
        raise DownloadError(f"The BCCD field could not be downloaded: {error}. Check the network. {advice}") from error
    except OSError as error:
        raise DownloadError(f"The BCCD field could not be kept: {error}. {advice}") from error
    return path


def has_bccd() -> bool:
    """Return whether the BCCD field is on this machine already."""
    path = _bccd_path()
    return path.is_file() and _sha256(path) == BCCD_SHA256


def _bccd_path() -> Path:
    from napari_bloodcell.models.weights import where

    return where() / "samples" / BCCD_URL.rpartition("/")[2]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
