"""Labels before and after a stroke of napari's own tools, from its paint event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Stroke:
    """What a stroke changed in one plane."""

    plane: tuple[int, ...]  # position in the axes before the last two
    corner: tuple[int, int]  # (y, x) of the patch, pixels
    before: NDArray[np.int32]  # (h, w)
    after: NDArray[np.int32]  # (h, w)

    @property
    def window(self) -> tuple[int | slice, ...]:
        """Index of the patch in the label image."""
        return (*self.plane, *(slice(c, c + n) for c, n in zip(self.corner, self.before.shape, strict=True)))


def strokes_of(cells: NDArray[np.integer[Any]], atoms: Sequence[Any]) -> list[Stroke]:
    """Return the changes described by the history atoms of a paint event, one stroke per plane.

    napari emits the event before it writes a single stroke, but after it writes those of a drag, so the image shows
    neither `before` nor `after` reliably; both follow from the atoms.
    """
    boxes = [_box_of(atom, cells.shape) for atom in atoms]
    low = np.min([box[0] for box in boxes], axis=0)
    high = np.max([box[1] for box in boxes], axis=0)
    before = np.array(cells[tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))], np.int32)
    for atom in reversed(atoms):
        _write(before, atom, low, cells.shape, is_undoing=True)
    after = before.copy()
    for atom in atoms:
        _write(after, atom, low, cells.shape, is_undoing=False)
    first = tuple(int(a) for a in low)
    return [
        Stroke(
            tuple(p + a for p, a in zip(plane, first, strict=False)),
            (first[-2], first[-1]),
            before[plane],
            after[plane],
        )
        for plane in np.ndindex(before.shape[:-2])
        if np.any(before[plane] != after[plane])
    ]


def _write(
    patch: NDArray[np.int32], atom: Any, low: NDArray[np.intp], shape: tuple[int, ...], *, is_undoing: bool
) -> None:
    """Write an atom's old or new labels into a patch that begins at `low`; atoms hold a box with a mask, or indices."""
    if not hasattr(atom, "slice_key"):
        patch[tuple(np.asarray(i) - a for i, a in zip(atom[0], low, strict=True))] = atom[1] if is_undoing else atom[2]
        return
    inner = patch[tuple(slice(s.start - a, s.stop - a) for s, a in zip(_slices(atom, shape), low, strict=True))]
    mask = np.ones(inner.shape, bool) if atom.mask is None else np.reshape(atom.mask, inner.shape)
    inner[mask] = np.ravel(atom.old_values) if is_undoing else atom.new_value


def _slices(atom: Any, shape: tuple[int, ...]) -> list[slice]:
    keys = [k if isinstance(k, slice) else slice(int(k), int(k) + 1) for k in atom.slice_key]
    return [slice(*k.indices(n)[:2]) for k, n in zip(keys, shape, strict=True)]


def _box_of(atom: Any, shape: tuple[int, ...]) -> tuple[list[int], list[int]]:
    if hasattr(atom, "slice_key"):
        slices = _slices(atom, shape)
        return [s.start for s in slices], [s.stop for s in slices]
    return [int(np.min(i)) for i in atom[0]], [int(np.max(i)) + 1 for i in atom[0]]
