"""Which part a new cell of a training set goes to: settled once, so that a test cell never becomes a training cell."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from napari_bloodcell.dataset import PARTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BY_IMAGE, BY_CLASS = "image", "class"
"""A cell is in its part because its image is, or because its class was split."""
SEVERAL = 3
"""From this many images on, those that come go to a part as a whole."""

Row = dict[str, Any]


def assign_parts(known: Sequence[Row], new: Sequence[Row], shares: tuple[float, float, float]) -> list[tuple[str, str]]:
    """Return part and reason of each new cell.

    Parameters
    ----------
    known : sequence of rows
        Cells that have a part: `class`, `image_sha256`, `split` and `split_by`.
    new : sequence of rows
        Cells that need one: `class`, `image_sha256`, `sha256`, and `split` and `split_by` where that is
        settled already; `split` is "" else.
    shares : tuple of float
        Of training, validation and test part.

    Returns
    -------
    list of (part, "image" or "class")
        In the order of `new`; the same whatever that order is.

    Notes
    -----
    Further cells of an image that is in a part follow it. While there are fewer than `SEVERAL` images, and for cells
    of unknown images, each class is split; images that come after that go whole to the part that lacks them most.
    """
    numbers: Counter[tuple[str, str]] = Counter((row["class"], row["split"]) for row in known)
    settled = [*known, *(row for row in new if row["split"])]
    part_of_image = {r["image_sha256"]: r["split"] for r in settled if r["split_by"] == BY_IMAGE and r["image_sha256"]}
    seen = {row["image_sha256"] for row in settled if row["image_sha256"]}
    result: dict[int, tuple[str, str]] = {}
    by_image: dict[str, list[int]] = defaultdict(list)
    loose: list[int] = []
    come = {r["image_sha256"] for r in new if r["image_sha256"] and not r["split"]} - seen
    are_several = len(seen | come) >= SEVERAL
    for i, row in enumerate(new):
        image = row["image_sha256"]
        if row["split"]:
            result[i] = row["split"], row["split_by"]
            numbers[row["class"], row["split"]] += 1
        elif image in part_of_image:
            result[i] = part_of_image[image], BY_IMAGE
            numbers[row["class"], part_of_image[image]] += 1
        elif image in come and are_several:
            by_image[image].append(i)
        else:
            loose.append(i)
    waiting = sorted(by_image, key=lambda image: (-len(by_image[image]), image))
    for n_left, image in zip(range(len(waiting), 0, -1), waiting, strict=True):
        classes = Counter(new[i]["class"] for i in by_image[image])
        part = _part_of_image(classes, numbers, shares, n_left)
        result |= dict.fromkeys(by_image[image], (part, BY_IMAGE))
        numbers.update({(name, part): n for name, n in classes.items()})
    for i in sorted(loose, key=lambda i: hashlib.sha256(new[i]["sha256"].encode()).digest()):
        name = new[i]["class"]
        part = _neediest(name, numbers, shares)
        result[i] = part, BY_CLASS
        numbers[name, part] += 1
    return [result[i] for i in range(len(new))]


def _neediest(name: str, numbers: Mapping[tuple[str, str], int], shares: Sequence[float]) -> str:
    """Return the part that lacks most of a class when one more comes; the first in doubt."""
    total = 1 + sum(numbers.get((name, part), 0) for part in PARTS)
    lacking = [share * total - numbers.get((name, part), 0) for part, share in zip(PARTS, shares, strict=True)]
    return PARTS[lacking.index(max(lacking))]


def _part_of_image(
    classes: Counter[str], numbers: Mapping[tuple[str, str], int], shares: Sequence[float], n_left: int
) -> str:
    """Return the part for an image with these cells: the one that lacks most of them, an empty one at the latest."""
    open_parts = [part for part, share in zip(PARTS, shares, strict=True) if share > 0]
    empty = [part for part in open_parts if not any(n for (_, p), n in numbers.items() if p == part)]
    choice = empty if len(empty) >= n_left else open_parts

    def lack(part: str) -> float:
        gain = 0.0
        for name, n in classes.items():
            total = n + sum(numbers.get((name, p), 0) for p in PARTS)
            wanted = shares[PARTS.index(part)] * total - numbers.get((name, part), 0)
            gain += min(n, max(wanted, 0.0)) / n
        return gain

    return max(choice, key=lambda part: (lack(part), -PARTS.index(part)))
