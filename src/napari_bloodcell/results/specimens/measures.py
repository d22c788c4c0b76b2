"""One measure, by hand and found, with the figures of their agreement."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from napari_bloodcell.core.statistics import Estimate, proportion
from napari_bloodcell.results.specimens.statistics import BlandAltman, PassingBablok, Repeatability

Kind = Literal["number", "grade", "presence"]


@dataclass(frozen=True, slots=True)
class Detection:
    """How often something is found where it is, and not found where it is not."""

    meaning: str
    true_positive: int
    positive: int
    true_negative: int
    negative: int

    @property
    def sensitivity(self) -> Estimate:
        """Share found of those that have it by hand, exact interval."""
        return proportion(self.true_positive, self.positive)

    @property
    def specificity(self) -> Estimate:
        """Share not found of those that do not have it by hand, exact interval."""
        return proportion(self.true_negative, self.negative)


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure, by hand and found.

    Attributes
    ----------
    name : str
        Its name in both lists.
    kind : str
        "number", "grade", or "presence" (yes or no).
    by_hand, found : tuple of float
        The pairs that are compared; grades from 0, presence 0 or 1.
    bland_altman, passing_bablok, concordance, spearman
        Agreement of numbers; None for others.
    kappa, weighted_kappa, quadratic_kappa : Estimate or None
        Agreement of grades and presence; weighted ones of grades only.
    grades : list of str
        Names of rows and columns of `confusion`.
    confusion : list of list of int
        Rows by hand, columns found; [] for numbers.
    detection : Detection or None
        Sensitivity and specificity; None if by hand all have it, or none.
    repeatability : dict
        "by hand" and "found": spread over smears of one specimen; {} where none was repeated.
    """

    name: str
    kind: Kind
    by_hand: tuple[float, ...]
    found: tuple[float, ...]
    bland_altman: BlandAltman | None = None
    passing_bablok: PassingBablok | None = None
    concordance: Estimate | None = None
    spearman: Estimate | None = None
    kappa: Estimate | None = None
    weighted_kappa: Estimate | None = None
    quadratic_kappa: Estimate | None = None
    grades: list[str] = field(default_factory=list)
    confusion: list[list[int]] = field(default_factory=list)
    detection: Detection | None = None
    repeatability: dict[str, Repeatability] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Pairs compared."""
        return len(self.by_hand)
