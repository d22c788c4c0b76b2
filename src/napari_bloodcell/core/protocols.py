"""Protocols of the mask generator and the classifier; implement these to bring your own.

Arrays are (Y, X) or (Y, X, 3) with the origin at the top left; boxes are half-open (y0, x0, y1, x1) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from napari_bloodcell.core.params import SegmentParams


@dataclass(frozen=True, slots=True, eq=False)
class CellMask:
    """One mask that a generator proposes: SAM's record, with the mask cropped to its box.

    Attributes
    ----------
    bbox : tuple of int
        (y0, x0, y1, x1), half-open, in pixels of the image given to the generator.
    mask : ndarray of bool, shape (y1 - y0, x1 - x0)
        The cell within its box.
    predicted_iou, stability_score : float
        SAM's own estimates of the mask's quality, 0 to 1.
    score : float
        Confidence that this is a cell, 0 to 1; orders masks when they compete for pixels.
    point : tuple of float
        (y, x), the prompt, pixels. A tile owns the masks whose point lies in it.
    cell_type : str or None
        The generator's own idea of the type, if it has one.
    type_probability : float
        Probability of that type, 0 to 1; NaN without a type.
    proposed_at : tuple of float
        (from, below): values of `SegmentParams.score_min` at which this is proposed as a cell: it scores enough, and
        no better one takes its place.
    """

    bbox: tuple[int, int, int, int]
    mask: NDArray[np.bool_]
    predicted_iou: float
    stability_score: float
    score: float
    point: tuple[float, float]
    cell_type: str | None = None
    type_probability: float = float("nan")
    proposed_at: tuple[float, float] = (0.0, float("inf"))

    def is_proposed(self, score_min: float) -> bool:
        """Return whether this is proposed as a cell at a value of `SegmentParams.score_min`."""
        return self.proposed_at[0] <= score_min < self.proposed_at[1]

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(np.count_nonzero(self.mask))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measurements made once per smear, never per tile, so that tiles agree with each other.

    Attributes
    ----------
    rbc_diameter_px : float
        Width of a typical red cell, pixels of the image.
    background_rgb : tuple of float
        Colour of the empty glass of the image as it was given, 0 to 255.
    mean_brightness : float
        Mean of HSV's V over the smear, 0 to 255.
    source : str
        Source of the diameter: "given", "pixel size", "file", "estimated" or "default".
    scale_confidence : float
        Confidence in the diameter, 0 to 1; 1 if it was given or the generator reports none.
    smear_confidence : float
        Likeness to a Giemsa-like brightfield smear of mammalian blood, 0 to 1; 1 if the generator reports none.
    outside : str
        The part of the picture outside the smear, packed by `stages.surroundings`; "" if there is none.
    light : tuple of float
        The light over the smear, in numbers of `stages.light`; () if it is even.
    red_rgb : tuple of float, optional
        Colour of a typical red cell of the image, 0 to 255; None if too few were seen, or the generator reports none.
    has_lines : bool
        Whether straight lines cross the picture, such as the gaps of a mosaic.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - for the files in which it is recorded

    rbc_diameter_px: float
    background_rgb: tuple[float, float, float]
    mean_brightness: float
    source: str = "estimated"
    scale_confidence: float = 1.0
    smear_confidence: float = 1.0
    outside: str = ""
    light: tuple[float, ...] = ()
    red_rgb: tuple[float, float, float] | None = None
    has_lines: bool = False


@runtime_checkable
class MaskGenerator(Protocol):
    """Finds the cells of an image.

    `name` and `sha256` identify it in recipes. `normalises_light` says that it evens out dark and tinted images itself,
    so that they need not be brightened for it.

    Optional members: `device`, where it runs; `precision`, in which it computes, with `doubt`, a sentence on what
    speaks against that ("": nothing), and `in_precision(name)`, which returns it in another;
    `look_px(calibration)`, the side in pixels of the image it prefers to see at once, for which small tiles are
    combined; `threads`, a `core.threads.Threads`, if `generate` may be called from several threads at once.
    """

    name: str
    sha256: str
    normalises_light: bool

    def overlap_px(self, calibration: Calibration) -> int:
        """Return how many pixels around a tile the generator wants to see."""
        ...

    def calibrate(self, sample: NDArray[np.uint8], first: Calibration) -> Calibration:
        """Refine a first estimate on a sample (Y, X, 3) uint8 of the smear; may return it unchanged."""
        ...

    def generate(
        self,
        image: NDArray[np.uint8],
        calibration: Calibration,
        params: SegmentParams,
        *,
        origin: tuple[int, int] = (0, 0),
        within: tuple[int, int, int, int] | None = None,
    ) -> list[CellMask]:
        """Return every cell of a (Y, X, 3) uint8 image; masks may still overlap.

        `origin` is the (y, x) of the image in its smear: a generator that resamples does so on one grid for all tiles.
        `within` is a half-open box (y0, x0, y1, x1): cells whose point lies outside it are discarded, so a generator
        may skip their masks. Boxes and points, `within` too, are relative to the image.
        """
        ...

    def predict(
        self,
        image: NDArray[np.uint8],
        calibration: Calibration,
        *,
        points: NDArray[np.floating] | None = None,
        boxes: NDArray[np.floating] | None = None,
    ) -> list[CellMask]:
        """Return one mask per prompt: points (N, 2) as (y, x), or boxes (N, 4) as (y0, x0, y1, x1)."""
        ...


@runtime_checkable
class CellClassifier(Protocol):
    """Types cells from their cutouts. `classes` are names in the order of the columns of `predict`.

    `name` and `sha256` identify it in recipes. `rbc_diameter_px` is the width of a red cell in the cutouts it was
    trained on: cells are resampled to that before they are cut out; None takes them as they are (the paper). Optional
    members: `glass_level` and `red_level`, the level of the glass and the colour of a typical red cell in the cutouts,
    and, as in `MaskGenerator`, `threads` and `precision`.
    """

    name: str
    sha256: str
    classes: Sequence[str]
    rbc_diameter_px: float | None

    def predict(self, cutouts: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return probabilities (N, K) float32 for cutouts (N, 128, 128, 3) uint8."""
        ...


def doubts_about(*models: MaskGenerator | CellClassifier) -> tuple[str, ...]:
    """Return what speaks against how models work here, in sentences for people, each once."""
    return tuple(dict.fromkeys(doubt for model in models if (doubt := str(getattr(model, "doubt", "")))))


@dataclass(frozen=True, slots=True)
class Progress:
    """A step of long work: `done` of `total` `what`, and a `payload` for live display."""

    done: int
    total: int
    what: str
    payload: object = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class FailedTile:
    """A tile without cells because its segmentation failed: `box` is (y0, x0, y1, x1), pixels."""

    name: str
    box: tuple[int, int, int, int]
    error: str


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Which model made a result: `sha256` is that of its weights."""

    name: str
    sha256: str
