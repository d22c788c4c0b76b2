"""Labelled cutouts as arrays: read, split, balanced and augmented as in the paper (§3.4)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_bloodcell.core.cells import BUILTIN_TYPES, RBC, UNIDENTIFIED, WBC, check_types
from napari_bloodcell.core.errors import READ_ERRORS, TrainingError, reason_of
from napari_bloodcell.stages.cutouts import CUTOUT_SIZE, centre_cutout

PARTS = ("train", "val", "test")
"""Names of the parts, and of their folders in the paper's layout."""
_DAMAGED: tuple[type[Exception], ...] = (Image.DecompressionBombError, *READ_ERRORS)
PICTURE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True, eq=False)
class LabelledCutouts:
    """Cutouts (N, `size`, `size`, 3) uint8 on black, with labels (N,) int64 that are positions in `classes`.

    `rbc_diameter_px` is the width to which red cells were resampled, `glass_level` the level of the glass, and
    `red_level` the colour of each smear's typical red cell; None: as in the image. `names` identify the cutouts, such
    as file names; empty if they have none.
    """

    cutouts: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    rbc_diameter_px: float | None = None
    glass_level: float | None = None
    names: tuple[str, ...] = ()
    red_level: tuple[float, float, float] | None = None
    size: int = CUTOUT_SIZE

    def __post_init__(self) -> None:
        check_types(self.classes)
        shape = (self.size, self.size, 3)
        if self.cutouts.ndim != 4 or self.cutouts.shape[1:] != shape or self.cutouts.dtype != np.uint8:
            wanted = f"uint8 (N, {self.size}, {self.size}, 3)"
            raise TrainingError(f"Cutouts are {self.cutouts.dtype} {self.cutouts.shape}; {wanted} is needed.")
        if self.labels.shape != (len(self.cutouts),) or not np.issubdtype(self.labels.dtype, np.integer):
            raise TrainingError(
                f"{len(self.cutouts)} cutouts need as many whole numbers as labels, not {self.labels.shape}."
            )
        if len(self.labels) and not (self.labels.min() >= 0 and self.labels.max() < len(self.classes)):
            raise TrainingError(f"Labels must be positions in the classes {self.classes}.")
        if self.names and len(self.names) != len(self.labels):
            raise TrainingError(f"{len(self.labels)} cutouts cannot have {len(self.names)} names.")

    def __len__(self) -> int:
        return len(self.labels)

    def counts(self) -> dict[str, int]:
        """Return the number of cutouts per class."""
        numbers = np.bincount(self.labels, minlength=len(self.classes))
        return {name: int(n) for name, n in zip(self.classes, numbers, strict=True)}

    @property
    def treatment(self) -> tuple[object, ...]:
        """How the cells were treated: `rbc_diameter_px`, `glass_level` and, if set, `red_level`."""
        return self.rbc_diameter_px, self.glass_level, *(() if self.red_level is None else (self.red_level,))

    def content_hash(self) -> str:
        """Return the SHA-256 of cutouts, labels and classes; the same in any order of the cells."""
        each = sorted(
            hashlib.sha256(self.classes[k].encode() + b"\0" + np.ascontiguousarray(c).tobytes()).digest()
            for c, k in zip(self.cutouts, self.labels, strict=True)
        )
        whole = hashlib.sha256(repr((sorted(self.classes), *self.treatment)).encode())
        for digest in each:
            whole.update(digest)
        return whole.hexdigest()

    def take(self, rows: NDArray[np.integer]) -> LabelledCutouts:
        """Return these rows."""
        names = tuple(self.names[i] for i in np.asarray(rows).tolist()) if self.names else ()
        return replace(self, cutouts=self.cutouts[rows], labels=self.labels[rows], names=names)

    def with_classes(self, classes: Sequence[str]) -> LabelledCutouts:
        """Return the same cutouts with labels that are positions in these classes, which must include its own."""
        position = np.array([list(classes).index(c) for c in self.classes], np.int64)
        return replace(self, labels=position[self.labels], classes=tuple(classes))


@dataclass(frozen=True, eq=False)
class Parts:
    """A data set split into training, validation and test part; the last may be empty."""

    train: LabelledCutouts
    val: LabelledCutouts
    test: LabelledCutouts

    def items(self) -> Iterable[tuple[str, LabelledCutouts]]:
        """Return (name, part) of the three."""
        return zip(PARTS, (self.train, self.val, self.test), strict=True)


def read_cutouts(folder: str | Path, *, with_augmented: bool = False) -> LabelledCutouts:
    """Read a folder with a sub-folder of pictures per class (the paper's layout).

    Files named ``aug-*``, copies made by the paper's authors, are left out by default: a copy in one part of a split
    and its original in another make the figures too good. Raises `TrainingError` if there is nothing to read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise TrainingError(f"There is no folder {str(folder)!r}; give one with a sub-folder of pictures per class.")
    by_class = class_folders(folder, with_augmented=with_augmented)
    files = [file for group in by_class.values() for file in group]
    cutouts = np.stack([centre_cutout(read_picture(file)) for file in files])
    labels = np.repeat(np.arange(len(by_class)), [len(group) for group in by_class.values()])
    names = tuple(file.relative_to(folder).as_posix() for file in files)
    return LabelledCutouts(cutouts, labels.astype(np.int64), tuple(by_class), names=names)


def class_folders(folder: Path, *, with_augmented: bool = False) -> dict[str, list[Path]]:
    """Return the pictures of each class of a folder with a sub-folder per class; errors as `read_cutouts`.

    "unidentified" is not a class to learn: nobody could say what these cells are.
    """
    folders = [p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    names = [name for name in folders if name != UNIDENTIFIED]
    if not names:
        raise TrainingError(f"{folder} has no sub-folders; one per class is needed, such as RBC and WBC.")
    found = {}
    for name in sorted(names, key=class_order):
        files = sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
        found[name] = [p for p in files if with_augmented or not p.name.startswith("aug-")]
        if not found[name]:
            raise TrainingError(
                f"The class {name!r} is empty: {folder / name} holds no pictures ({', '.join(PICTURE_SUFFIXES)})."
            )
    return found


def read_parts(folder: str | Path, *, with_augmented: bool = False) -> Parts | None:
    """Read ``train``, ``val`` and, if present, ``test`` of the paper's layout; None without ``train``."""
    folder = Path(folder)
    if not (folder / "train").is_dir():
        return None
    read = {p: read_cutouts(folder / p, with_augmented=with_augmented) for p in PARTS if (folder / p).is_dir()}
    first = read["train"]
    for name, part in read.items():
        if part.classes != first.classes:
            raise TrainingError(f"{folder / name} has the classes {part.classes}, but train has {first.classes}.")
    empty = first.take(np.zeros(0, np.int64))
    return Parts(first, read.get("val", empty), read.get("test", empty))


def concatenate(datasets: Sequence[LabelledCutouts]) -> LabelledCutouts:
    """Join data sets and unite their classes; `TrainingError` if there are none, or of several scales or colours."""
    kinds = {d.treatment for d in datasets}
    if len(kinds) != 1:
        raise TrainingError(
            f"Cutouts of one scale and one treatment of colours can be joined, not {sorted(map(str, kinds))}."
        )
    classes = tuple(sorted({c for d in datasets for c in d.classes}, key=class_order))
    labels = [np.array([classes.index(c) for c in d.classes], np.int64)[d.labels] for d in datasets]
    cutouts = np.concatenate([d.cutouts for d in datasets])
    names = tuple(n for d in datasets for n in d.names) if all(d.names or not len(d) for d in datasets) else ()
    return replace(datasets[0], cutouts=cutouts, labels=np.concatenate(labels), classes=classes, names=names)


def split(dataset: LabelledCutouts, shares: tuple[float, float, float] = (0.75, 0.15, 0.10), *, seed: int = 0) -> Parts:
    """Split each class at random into training, validation and test part (§3.4).

    Every class gets at least one cutout in the training part and, unless its share is 0, in the validation part;
    `TrainingError` if it has too few, or the shares do not add up to 1.
    """
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6 or shares[0] == 0:
        raise TrainingError(
            f"The shares of the split are {shares}; they must be 0 or more, add up to 1, and train on some."
        )
    rng = np.random.default_rng(seed)
    rows: list[list[NDArray[np.int64]]] = [[], [], []]
    for label, name in enumerate(dataset.classes):
        mine = rng.permutation(np.nonzero(dataset.labels == label)[0])
        least = 2 if shares[1] else 1
        if len(mine) < least:
            raise TrainingError(
                f"The class {name!r} has {len(mine)} cutouts; a split needs at least {least}. Label more."
            )
        n_val = max(round(len(mine) * shares[1]), 1 if shares[1] else 0)
        n_test = min(round(len(mine) * shares[2]), len(mine) - n_val - 1)
        edges = np.cumsum([len(mine) - n_val - n_test, n_val])
        for part, chosen in zip(rows, np.split(mine, edges), strict=True):
            part.append(chosen)
    train, val, test = (dataset.take(np.sort(np.concatenate(part))) for part in rows)
    return Parts(train, val, test)


def balance(
    dataset: LabelledCutouts, *, wbc_augmentation: int = 10, rbc_per_wbc: float | None = 2.0, seed: int = 0
) -> LabelledCutouts:
    """Multiply the WBC of a training part by flips and rotations, and thin its RBC (§3.4).

    Every cutout other than RBC becomes `wbc_augmentation`. RBC are drawn at random until there are at most
    `rbc_per_wbc` for each augmented WBC (or each cutout of the largest other class, without WBC); None keeps all.
    Originals come first, in their order, then the copies.
    """
    rng = np.random.default_rng(seed)
    is_rbc = dataset.labels == dataset.classes.index(RBC) if RBC in dataset.classes else np.zeros(len(dataset), bool)
    rare = np.nonzero(~is_rbc)[0]
    kept = np.nonzero(is_rbc)[0]
    if rbc_per_wbc is not None and len(rare):
        numbers = dataset.counts()
        others = numbers.get(WBC) or max(n for name, n in numbers.items() if name != RBC)
        most = max(1, round(rbc_per_wbc * others * wbc_augmentation))
        kept = np.sort(rng.permutation(kept)[:most])
    originals = np.sort(np.concatenate([kept, rare]))
    copies = [augmented(dataset.cutouts[i], rng) for _ in range(wbc_augmentation - 1) for i in rare]
    if not copies:
        return dataset.take(originals)
    cutouts = np.concatenate([dataset.cutouts[originals], np.stack(copies)])
    labels = np.concatenate([dataset.labels[originals], np.tile(dataset.labels[rare], wbc_augmentation - 1)])
    return replace(dataset, cutouts=cutouts, labels=labels, names=())


def augmented(cutout: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a cutout flipped at random and rotated by −90° to 90°, its rim crisp, its background black."""
    if rng.random() < 0.5:
        cutout = cutout[:, ::-1]
    if rng.random() < 0.5:
        cutout = cutout[::-1]
    angle = float(rng.uniform(-90, 90))
    mask = np.where(cutout.any(axis=-1), np.uint8(255), np.uint8(0))
    cover = np.asarray(Image.fromarray(mask).rotate(angle, Image.Resampling.BILINEAR))
    colour = np.asarray(Image.fromarray(np.ascontiguousarray(cutout)).rotate(angle, Image.Resampling.BILINEAR))
    restored = np.minimum(colour * (255.0 / np.maximum(cover, 1))[..., None] + 0.5, 255.0)
    return np.where((cover >= 128)[..., None], restored, 0).astype(np.uint8)


def class_order(name: str) -> tuple[int, str]:
    """Return the sort key of a class: RBC, WBC, platelet, then by name."""
    return (BUILTIN_TYPES.index(name) if name in BUILTIN_TYPES else len(BUILTIN_TYPES), name)


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Return a picture as (H, W, 3) uint8; `TrainingError` if it is none."""
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except _DAMAGED as error:
        raise TrainingError(f"The cutout {path} cannot be read as a picture: {reason_of(error)}.") from error
