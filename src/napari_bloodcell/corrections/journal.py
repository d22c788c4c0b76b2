"""The journal of corrections: append-only files that survive a crash, resegmentation and a second opinion."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from napari_bloodcell.core.errors import InputError, InputWarning, OutputError
from napari_bloodcell.core.files import expanded, locked
from napari_bloodcell.corrections.agreement import Dispute, Merged, cohens_kappa, merge
from napari_bloodcell.corrections.correction import SAME_FROM, Correction, group_by_cell, standing

__all__ = [
    "Correction", "Dispute", "Journal", "Merged", "Placed", "cohens_kappa", "default_journal_folder", "image_hash",
    "merge", "place", "standing",
]  # fmt: skip

FOLDER_VARIABLE = "NAPARI_BLOODCELL_JOURNAL"
"""Environment variable for the journal's folder."""
WHOLE_BELOW = 2**24
"""Images with fewer pixels are hashed whole, larger ones by samples."""
_GRID, _BLOCK = 8, 128  # of the samples: blocks along each axis, and their side in pixels


def default_journal_folder() -> Path:
    """Return the folder of corrections: `FOLDER_VARIABLE`, or the user's data folder."""
    chosen = os.environ.get(FOLDER_VARIABLE, "").strip()
    if chosen:
        return expanded(chosen).absolute()
    return platformdirs.user_data_path("napari-bloodcell", appauthor=False) / "journal"


def image_hash(image: Any) -> str:
    """Return the SHA-256 that names an image by its content, quickly even if it is lazy and large.

    `image` is (Y, X), (Y, X, 3) or a pyramid, of which the first level counts. All pixels are hashed if there are fewer
    than `WHOLE_BELOW`, otherwise the shape and 64 evenly spread blocks. Raises `InputError` if it is no image.
    """
    level = image[0] if isinstance(image, list | tuple) and len(image) else image
    shape = tuple(int(n) for n in getattr(level, "shape", ()))
    if len(shape) not in (2, 3) or 0 in shape:
        raise InputError(f"An image (Y, X) or (Y, X, 3) is needed to name it by its content, not one of shape {shape}.")
    digest = hashlib.sha256(repr(shape).encode())
    if len(shape) == 2 or level.dtype != np.uint8:
        digest.update(np.dtype(level.dtype).newbyteorder("<").str.encode())
    height, width = shape[:2]
    if height * width < WHOLE_BELOW:
        windows = [(y, min(y + 256, height), 0, width) for y in range(0, height, 256)]
    else:
        digest.update(b"samples")
        corners = itertools.product(_starts(height), _starts(width))
        windows = [(y, min(y + _BLOCK, height), x, min(x + _BLOCK, width)) for y, x in corners]
    for y0, y1, x0, x1 in windows:
        block = np.asarray(level[y0:y1, x0:x1])
        digest.update(block.astype(block.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def _starts(length: int) -> list[int]:
    """Return where the samples along an axis begin."""
    room = max(length - _BLOCK, 0)
    return sorted({round(room * (i + 0.5) / _GRID) for i in range(_GRID)})


class Journal:
    """Corrections on disk, one JSON object a line.

    Parameters
    ----------
    folder_or_path : path
        A file that ends with ``.jsonl``, for corrections of any image; or a folder, in which each image has a file of
        its own, named by its hash. They are made with the first correction.

    Notes
    -----
    A correction is one write at the end of the file, forced to the disk: if the program is killed, at most the
    correction being written is lost. The rest of such a line is ignored by `read` and cut off by `append`. Several
    threads, processes and machines may write at once: each locks a file beside the journal's for its write.
    """

    def __init__(self, folder_or_path: str | Path) -> None:
        self.path = expanded(folder_or_path)

    def append(self, correction: Correction) -> None:
        """Write a correction; it is on the disk when this returns.

        Raises
        ------
        OutputError
            If it cannot be written; the journal is then as it was.
        """
        self.extend([correction])

    def extend(self, corrections: Iterable[Correction]) -> None:
        """Write corrections, those of an image at once; they are on the disk when this returns.

        Raises
        ------
        OutputError
            If they cannot be written; the journal of that image is then as it was.
        """
        by_file: dict[Path, list[Correction]] = {}
        for correction in corrections:
            by_file.setdefault(self._file_of(correction.image_sha256), []).append(correction)
        for path, some in by_file.items():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with locked(path.with_name(f".{path.name}.lock")):
                    _append(path, b"".join(correction.to_json().encode() + b"\n" for correction in some))
            except OSError as error:
                what = f"The correction of cell {some[0].cell}" if len(some) == 1 else f"{len(some):,} corrections"
                raise OutputError(f"{what} cannot be written to {path}: {error.strerror or error}.") from error

    def read(self, image_sha256: str | None = None) -> list[Correction]:
        """Return the corrections of an image, or of all, as written; `standing` selects those that hold.

        Raises
        ------
        InputError
            If a file cannot be read.

        Warns
        -----
        InputWarning
            If lines other than an unfinished last one are damaged; they are passed over.
        """
        if self._is_file:
            files = [self.path] if self.path.exists() else []
        elif image_sha256 is not None:
            files = [p for p in [self._file_of(image_sha256)] if p.exists()]
        else:
            files = sorted(self.path.glob("*.jsonl"))
        found = [correction for path in files for correction in _read_lines(path, is_chosen=self._is_file)]
        return [c for c in found if image_sha256 in (None, c.image_sha256)]

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever written to it."""
        return not self.path.exists() if self._is_file else next(self.path.glob("*.jsonl"), None) is None

    @property
    def _is_file(self) -> bool:
        return self.path.suffix == ".jsonl"

    def _file_of(self, image_sha256: str) -> Path:
        return self.path if self._is_file else self.path / f"{_safe(image_sha256)}.jsonl"


@dataclass(frozen=True, slots=True)
class Placed:
    """Corrections placed on a segmentation.

    `found` maps the id of each corrected cell to its type, with its kind if a person said it ("WBC: neutrophil"), and
    `by_cell` to the correction that decided. `lost` are the last corrections of cells that are gone, except of those
    that a person deleted.
    """

    found: dict[int, str]
    lost: list[Correction]
    by_cell: dict[int, Correction]


def place(corrections: Iterable[Correction], cells: Any, *, iou_above: float = SAME_FROM) -> Placed:
    """Find corrected cells in a segmentation (Y, X) of the same image, NumPy or lazy.

    A cell is the corrected one if their IoU is above `iou_above`. Undone corrections are ignored; the last one of a
    cell decides, and if it deleted the cell, there is nothing to find. Only the surroundings of the
    corrected cells are read.
    """
    by_cell: dict[int, Correction] = {}
    lost: list[Correction] = []
    for group in group_by_cell(standing(corrections)):
        if group[-1].is_deleted:
            continue
        cell = _best_match(group[-1], cells, iou_above)
        if cell is None:
            lost.append(group[-1])
        elif cell not in by_cell or by_cell[cell].when <= group[-1].when:
            by_cell[cell] = group[-1]
    return Placed({cell: c.said for cell, c in by_cell.items()}, lost, by_cell)


def _best_match(correction: Correction, cells: Any, iou_above: float) -> int | None:
    """Return the id of the cell with the highest IoU with a corrected one, if it is above `iou_above`."""
    y0, x0, y1, x1 = correction.bbox
    height, width = (int(n) for n in cells.shape[-2:])
    margin_y, margin_x = y1 - y0, x1 - x0  # beyond it a cell is too large to match
    top, left = max(y0 - margin_y, 0), max(x0 - margin_x, 0)
    around = np.asarray(cells[top : min(y1 + margin_y, height), left : min(x1 + margin_x, width)])
    inside = around[y0 - top : y1 - top, x0 - left : x1 - left]
    covered = inside[correction.mask[: inside.shape[0], : inside.shape[1]]]
    ids, overlaps = np.unique(covered[covered > 0], return_counts=True)
    best: tuple[float, int | None] = (0.0, None)
    for cell, overlap in zip(ids.tolist(), overlaps.tolist(), strict=True):
        iou = overlap / (int(np.count_nonzero(around == cell)) + correction.area - overlap)
        best = max(best, (iou, int(cell)), key=lambda pair: pair[0])
    return best[1] if best[0] > iou_above else None


def _append(path: Path, lines: bytes) -> None:
    """Write whole lines at the end of a file, replacing an unfinished one."""
    with path.open("a+b", buffering=0) as file:
        end = _end_of_whole_lines(file)
        if end < file.seek(0, os.SEEK_END):
            file.truncate(end)
        try:
            if file.write(lines) != len(lines):
                raise OSError("the disk is full")
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise


def _end_of_whole_lines(file: Any) -> int:
    """Return the length of the whole lines of a file, bytes."""
    end = int(file.seek(0, os.SEEK_END))
    while end:
        begin = max(end - 65536, 0)
        file.seek(begin)
        newline = file.read(end - begin).rfind(b"\n")
        if newline >= 0:
            return begin + int(newline) + 1
        end = begin
    return 0


def _read_lines(path: Path, *, is_chosen: bool) -> list[Correction]:
    """Read a file of the journal; it is an error if a file chosen by the user holds no correction at all."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"The journal {path} cannot be read: {error.strerror or error}.") from error
    found, damaged = [], []
    for number, line in enumerate(lines[:-1], start=1):  # the rest after the last line end was never finished
        try:
            found.append(Correction.from_json(line))
        except (ValueError, RecursionError):
            damaged.append(number)
    if damaged and not found and is_chosen:
        raise InputError(f"{path} is no journal of corrections: none of its {len(damaged):,} lines is one.")
    if damaged:
        some = ", ".join(map(str, damaged[:5])) + (" …" if len(damaged) > 5 else "")
        warnings.warn(
            f"{len(damaged)} of {len(lines) - 1} lines of the journal {path} are damaged and passed over: {some}.",
            InputWarning,
            stacklevel=3,
        )
    return found


def _safe(name: str) -> str:
    """Return a hash as a file name, whatever was given."""
    return "".join(c for c in name if c.isalnum())[:64] or "unknown"
