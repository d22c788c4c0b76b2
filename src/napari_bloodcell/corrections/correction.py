"""One correction: what a person said of a cell, with the cell's outline, so that it can be found again."""

from __future__ import annotations

import itertools
import json
import math
import uuid
from collections import defaultdict
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_bloodcell.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Box = tuple[int, int, int, int]

SAME_FROM = 0.5
"""Two outlines whose IoU is more than this are one cell; no cell can then be two others."""
_LARGEST_BOX_PX = 2**26  # what a line of a journal may claim: a cell is some thousand pixels large
_BUCKET = 64  # pixels: side of the squares in which neighbours are looked for


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _new_key() -> str:
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Correction:
    """What a person said of one cell.

    Attributes
    ----------
    cell : int
        Its id in the segmentation that was corrected; others have other ids.
    bbox : tuple of int
        (y0, x0, y1, x1), half-open, pixels of the image.
    centroid : tuple of float
        (y, x), pixels.
    runs : tuple of int
        The cell within its box: lengths of runs row by row, the first one outside the cell; `mask` unpacks them.
    from_type, to_type : str
        The type before ("" for none) and after. The same twice: the person looked, and it was right.
    annotator : str
        Who.
    image_sha256 : str
        Which image, by its content (`journal.image_hash`).
    model, model_sha256 : str
        The classifier that typed the image.
    model_type : str
        What it had said of the cell; "" for nothing.
    model_probability : float or None
        How sure it was, 0 to 1.
    when : str
        UTC, ISO 8601.
    key : str
        Names this correction among all.
    undoes : str
        Key of the correction that this one takes back; "" for none. Doing it again takes back the taking back.
    """

    cell: int
    bbox: Box
    centroid: tuple[float, float]
    runs: tuple[int, ...]
    from_type: str
    to_type: str
    annotator: str
    image_sha256: str
    model: str = ""
    model_sha256: str = ""
    model_type: str = ""
    model_probability: float | None = None
    when: str = field(default_factory=_now)
    key: str = field(default_factory=_new_key)
    undoes: str = ""

    @classmethod
    def of_cell(cls, cells: Any, cell: int, bbox: Box, **what: Any) -> Correction:
        """Return the correction of a cell of a label image.

        Parameters
        ----------
        cells : array of int, shape (Y, X)
            Label image, numpy or lazy; read within the box only.
        cell : int
            Its id.
        bbox : tuple of int
            Its box (y0, x0, y1, x1), as in the cell table.
        **what
            `from_type`, `to_type`, `annotator`, `image_sha256` and what else a correction has.

        Raises
        ------
        InputError
            If the cell has no pixel in the box.
        """
        y0, x0, y1, x1 = (int(v) for v in bbox)
        mask = np.asarray(cells[y0:y1, x0:x1]) == cell
        if not mask.any():
            raise InputError(f"Cell {cell} has no pixel in the box {(y0, x0, y1, x1)}: there is nothing to correct.")
        rows, columns = np.nonzero(mask)
        centroid = (float(rows.mean()) + y0, float(columns.mean()) + x0)
        return cls(int(cell), (y0, x0, y1, x1), centroid, pack(mask), **what)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The cell within its box, bool (y1 - y0, x1 - x0)."""
        y0, x0, y1, x1 = self.bbox
        return unpack(self.runs, (y1 - y0, x1 - x0))

    @property
    def area(self) -> int:
        """Pixels of the cell."""
        return sum(self.runs[1::2])

    def undo(self) -> Correction:
        """Return the correction, made now, that takes this one back."""
        back = replace(self, from_type=self.to_type, to_type=self.from_type, undoes=self.key)
        return replace(back, when=_now(), key=_new_key())

    def iou(self, other: Correction) -> float:
        """Return intersection over union of the two cells, 0 to 1; 0 for cells of different images."""
        if self.image_sha256 != other.image_sha256:
            return 0.0
        a, b = self.bbox, other.bbox
        y0, x0, y1, x1 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
        if y0 >= y1 or x0 >= x1:
            return 0.0
        mine = self.mask[y0 - a[0] : y1 - a[0], x0 - a[1] : x1 - a[1]]
        theirs = other.mask[y0 - b[0] : y1 - b[0], x0 - b[1] : x1 - b[1]]
        both = int(np.count_nonzero(mine & theirs))
        return both / (self.area + other.area - both)

    def to_json(self) -> str:
        """Return the correction as one line of JSON, without the line's end."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Correction:
        """Return the correction that `to_json` wrote; fields of later versions are passed over.

        Raises
        ------
        ValueError
            If it is not one.
        """
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("a correction is a JSON object")
        values = {f.name: content[f.name] for f in fields(cls) if f.name in content}
        try:
            return cls(**values | _checked(values))
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"this is no correction: {error}") from error


def standing(corrections: Iterable[Correction]) -> list[Correction]:
    """Return the corrections that hold, in their order: without those taken back, and without the taking back."""
    records = list(corrections)
    taken_back: set[str] = set()
    for record in reversed(records):  # what is taken back takes nothing back
        if record.undoes and record.key not in taken_back:
            taken_back.add(record.undoes)
    return [c for c in records if c.key not in taken_back and not c.undoes]


def group_by_cell(corrections: Iterable[Correction]) -> list[list[Correction]]:
    """Return the corrections by cell, each cell's in their order: outlines that overlap enough are one cell."""
    groups: list[list[Correction]] = []
    near: dict[tuple[str, int, int], list[int]] = defaultdict(list)
    for correction in corrections:
        y, x = (int(v // _BUCKET) for v in correction.centroid)
        y0, x0, y1, x1 = correction.bbox
        reach = max(y1 - y0, x1 - x0) // _BUCKET + 1  # the centroid of a cell with IoU ≥ 0.5 is within its box
        around = itertools.product(range(y - reach, y + reach + 1), range(x - reach, x + reach + 1))
        candidates = [i for v, u in around for i in near.get((correction.image_sha256, v, u), ())]
        ious = [groups[i][-1].iou(correction) for i in candidates]
        if ious and max(ious) > SAME_FROM:
            group = candidates[int(np.argmax(ious))]
            groups[group].append(correction)
        else:
            group = len(groups)
            groups.append([correction])
        here = near[correction.image_sha256, y, x]
        if group not in here:
            here.append(group)
    return groups


def pack(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    """Return the lengths of the runs of a mask (h, w), row by row, the first one outside (it may be 0)."""
    flat = mask.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return (0, *lengths) if flat.size and flat[0] else tuple(lengths)


def unpack(runs: tuple[int, ...], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask that `pack` packed, bool of this shape."""
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(shape)


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a correction that JSON changes, with their own types; `ValueError` where they are wrong."""
    bbox = tuple(int(v) for v in values["bbox"])
    runs = tuple(int(v) for v in values["runs"])
    y, x = (float(v) for v in values["centroid"])
    if len(bbox) != 4 or not (0 <= bbox[0] < bbox[2] and 0 <= bbox[1] < bbox[3]):
        raise ValueError(f"the box {bbox} is none")
    if (bbox[2] - bbox[0]) * (bbox[3] - bbox[1]) > _LARGEST_BOX_PX or not (math.isfinite(y) and math.isfinite(x)):
        raise ValueError(f"no cell has the box {bbox} with the middle {(y, x)}")
    if not runs or min(runs) < 0 or sum(runs) != (bbox[2] - bbox[0]) * (bbox[3] - bbox[1]):
        raise ValueError("the outline does not fill its box")
    words = tuple(f.name for f in fields(Correction) if f.type == "str")
    if not all(isinstance(values.get(name, ""), str) for name in words):
        raise ValueError(f"{', '.join(words)} must be text")
    "".join(values.get(name, "") for name in words).encode()  # half a character cannot be written again
    probability = values.get("model_probability")
    if probability is not None and not 0 <= float(probability) <= 1:
        raise ValueError(f"the probability is {probability}")
    return {
        "cell": int(values["cell"]),
        "bbox": bbox,
        "centroid": (y, x),
        "runs": runs,
        "model_probability": None if probability is None else float(probability),
    }
