"""A correction: the type a person gave a cell, with the cell's outline, by which it is found again."""

from __future__ import annotations

import json
import uuid
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_bloodcell.core.cells import full_name
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.geometry import Box, shared_box

SAME_FROM = 0.5
"""Outlines whose IoU is above this are one cell; above a half no cell can match two others."""
_LONGEST_SIDE_PX = 8192  # most that a line of a journal may claim; real cells have some thousand pixels
_LARGEST_BOX_PX = 2**24
_LEVELS = 14  # sides up to `_LONGEST_SIDE_PX`
_FARTHEST_PX = 2**31  # no image is larger
_MOST_IN_BUCKET = 8  # outlines compared; more overlap only in a forged journal


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _new_key() -> str:
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Correction:
    """A person's correction of one cell.

    Attributes
    ----------
    cell : int
        Its id in the segmentation that was corrected; other segmentations have other ids.
    bbox : tuple of int
        (y0, x0, y1, x1), half-open, pixels of the image.
    centroid : tuple of float
        (y, x), pixels.
    runs : tuple of int
        The cell within its box: lengths of runs row by row, the first one outside the cell; `mask` unpacks them.
    from_type, to_type : str
        The type before ("" for none) and after; equal if the person confirmed it. `to_type` is "" where the person said
        nothing about the type, and of a cell that was deleted. Without a type before, a cell may have been drawn.
    from_subtype, to_subtype : str
        The kind of the type before, and that which the person said; "" for none.
    from_abnormal, to_abnormal : bool
        Whether the cell was marked as abnormal, and is.
    is_deleted : bool
        Whether the person said that there is no cell.
    annotator : str
        Who made the correction.
    image_sha256 : str
        The image, by its content (`journal.image_hash`).
    model, model_sha256 : str
        The classifier that typed the image.
    model_type : str
        The type it gave; "" for none.
    model_probability : float or None
        Its probability, 0 to 1.
    when : str
        UTC, ISO 8601.
    key : str
        Unique name of this correction.
    undoes : str
        Key of the correction that this one takes back; "" for none. A redo is recorded as an undo of the undo.
    audit : str
        Name of the audit in which the cell was judged, its type hidden; "" for none.
    audit_type : str
        The type that the audit asks about: the one that the cell had when it was drawn.
    audit_cells : int
        How many cells of the image had that type then.
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
    from_subtype: str = ""
    to_subtype: str = ""
    from_abnormal: bool = False
    to_abnormal: bool = False
    is_deleted: bool = False
    audit: str = ""
    audit_type: str = ""
    audit_cells: int = 0

    @property
    def said(self) -> str:
        """What the person called the cell: "RBC", "WBC: neutrophil", or "" if only its mark was set."""
        return full_name(self.to_type, self.to_subtype)

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
            `from_type`, `to_type`, `annotator`, `image_sha256` and further attributes.

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
        swapped: dict[str, Any] = {}
        for name in ("type", "subtype", "abnormal"):
            swapped |= {f"from_{name}": getattr(self, f"to_{name}"), f"to_{name}": getattr(self, f"from_{name}")}
        return replace(self, **swapped, undoes=self.key, when=_now(), key=_new_key())

    def most_iou(self, other: Correction) -> float:
        """Return an upper bound of the two cells' IoU, from their boxes and areas."""
        areas, box = (self.area, other.area), shared_box(self.bbox, other.bbox)
        both = 0 if box is None else min((box[2] - box[0]) * (box[3] - box[1]), *areas)
        return both / max(sum(areas) - both, 1)

    def iou(self, other: Correction) -> float:
        """Return the IoU of the two cells, 0 to 1; 0 for cells of different images."""
        if self.image_sha256 != other.image_sha256:
            return 0.0
        a, b = self.bbox, other.bbox
        if shared_box(a, b) is None:
            return 0.0
        if (a, self.runs) == (b, other.runs):
            return 1.0
        width = max(a[3], b[3])
        mine, theirs = self._segments(width), other._segments(width)
        both = int(np.sum(_covered(theirs, mine[1]) - _covered(theirs, mine[0])))
        return both / (self.area + other.area - both)

    def _segments(self, width: int) -> NDArray[np.int64]:
        """Return the cell's horizontal stretches, first and last + 1 pixel, (2, N), in a plane `width` wide."""
        y0, x0, _, x1 = self.bbox
        side = x1 - x0
        edges = np.concatenate([[0], np.cumsum(np.asarray(self.runs, np.int64))])
        starts, ends = edges[1:-1:2], edges[2::2]
        starts, ends = starts[ends > starts], ends[ends > starts]
        n_rows = (ends - 1) // side - starts // side + 1
        first = np.repeat(np.cumsum(n_rows) - n_rows, n_rows)
        rows = np.repeat(starts // side, n_rows) + np.arange(n_rows.sum()) - first
        columns = np.stack(
            [
                np.maximum(np.repeat(starts, n_rows) - rows * side, 0),
                np.minimum(np.repeat(ends, n_rows) - rows * side, side),
            ]
        )
        return np.asarray((rows + y0) * width + x0 + columns)

    def to_json(self) -> str:
        """Return the correction as one line of JSON, without a line end."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Correction:
        """Return the correction written by `to_json`, ignoring fields of later versions; `ValueError` if it is none."""
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("a correction is a JSON object")
        values = {f.name: content[f.name] for f in fields(cls) if f.name in content}
        try:
            return cls(**values | _checked(values))
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"this is no correction: {error}") from error


def standing(corrections: Iterable[Correction]) -> list[Correction]:
    """Return the corrections that hold, in order: neither undone nor an undo."""
    records = list(corrections)
    taken_back: set[str] = set()
    for record in reversed(records):  # an undone undo has no effect
        if record.undoes and record.key not in taken_back:
            taken_back.add(record.undoes)
    return [c for c in records if c.key not in taken_back and not c.undoes]


def group_by_cell(corrections: Iterable[Correction]) -> list[list[Correction]]:
    """Return the corrections grouped by cell, in order: outlines that overlap enough are one cell.

    Outlines are not compared if the sides of one box are several times those of the other.
    """
    groups: list[list[Correction]] = []
    near: dict[tuple[str, int, int, int], deque[int]] = defaultdict(lambda: deque(maxlen=_MOST_IN_BUCKET))
    for correction in corrections:
        level = _level_of(correction)
        around = (b for k in range(max(level - 2, 0), _LEVELS) for b in _buckets(correction, k) if b in near)
        found = sorted({i for bucket in around for i in near[bucket]})
        candidates = [i for i in found if groups[i][-1].most_iou(correction) > SAME_FROM]
        ious = [groups[i][-1].iou(correction) for i in candidates]
        if ious and max(ious) > SAME_FROM:
            group = candidates[int(np.argmax(ious))]
            groups[group].append(correction)
        else:
            group = len(groups)
            groups.append([correction])
        for bucket in _buckets(correction, level):
            if group not in near[bucket]:
                near[bucket].append(group)
    return groups


def _level_of(correction: Correction) -> int:
    """Return the least k with the longer side of the cell's box at most 2^k pixels."""
    y0, x0, y1, x1 = correction.bbox
    return (max(y1 - y0, x1 - x0) - 1).bit_length()


def _buckets(correction: Correction, level: int) -> Iterator[tuple[str, int, int, int]]:
    """Yield the squares of 2^level pixels, of its image, that a cell's box touches."""
    y0, x0, y1, x1 = correction.bbox
    for y in range(y0 >> level, (y1 - 1 >> level) + 1):
        for x in range(x0 >> level, (x1 - 1 >> level) + 1):
            yield correction.image_sha256, level, y, x


def pack(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    """Return the run lengths of a mask (h, w), row by row, the first one outside (it may be 0)."""
    flat = mask.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return (0, *lengths) if flat.size and flat[0] else tuple(lengths)


def unpack(runs: tuple[int, ...], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask of this shape packed by `pack`."""
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(shape)


def _covered(segments: NDArray[np.int64], before: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many pixels of rising segments (2, N) have smaller numbers than each of `before`."""
    n = np.searchsorted(segments[0], before)
    total = np.concatenate([[0], np.cumsum(segments[1] - segments[0])])[n]
    last_end = np.concatenate([[0], segments[1]])[n]
    return total - np.maximum(last_end - before, 0)


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields whose types JSON changes, restored; `ValueError` if one is invalid."""
    bbox = tuple(int(v) for v in values["bbox"])
    runs = tuple(int(v) for v in values["runs"])
    y, x = (float(v) for v in values["centroid"])
    if len(bbox) != 4 or not (0 <= bbox[0] < bbox[2] and 0 <= bbox[1] < bbox[3]):
        raise ValueError(f"the box {bbox} is none")
    height, width = bbox[2] - bbox[0], bbox[3] - bbox[1]
    if max(bbox) > _FARTHEST_PX or max(height, width) > _LONGEST_SIDE_PX or height * width > _LARGEST_BOX_PX:
        raise ValueError(f"no cell has the box {bbox}")
    if not (bbox[0] <= y <= bbox[2] and bbox[1] <= x <= bbox[3]):  # False for NaN too
        raise ValueError(f"the middle {(y, x)} lies outside the box {bbox}")
    if not runs or min(runs) < 0 or sum(runs) != (bbox[2] - bbox[0]) * (bbox[3] - bbox[1]):
        raise ValueError("the outline does not fill its box")
    words = tuple(f.name for f in fields(Correction) if f.type == "str")
    if not all(isinstance(values.get(name, ""), str) for name in words):
        raise ValueError(f"{', '.join(words)} must be text")
    "".join(values.get(name, "") for name in words).encode()  # raises if a lone surrogate could not be written again
    if not all(isinstance(values.get(name, False), bool) for name in ("from_abnormal", "to_abnormal", "is_deleted")):
        raise ValueError("a mark is true or false")
    probability = values.get("model_probability")
    if probability is not None and not 0 <= float(probability) <= 1:
        raise ValueError(f"the probability is {probability}")
    if int(values.get("audit_cells", 0)) < 0:
        raise ValueError(f"a type has {values['audit_cells']} cells")
    return {
        "cell": int(values["cell"]),
        "audit_cells": int(values.get("audit_cells", 0)),
        "bbox": bbox,
        "centroid": (y, x),
        "runs": runs,
        "model_probability": None if probability is None else float(probability),
    }
