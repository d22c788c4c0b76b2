"""Shares and agreement between readers, each with its 95 % interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from napari_bloodcell.core.errors import InputError

NORMAL_95 = float(stats.norm.ppf(0.975))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval; NaN where it is not defined."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def times(self, factor: float) -> Estimate:
        """Return it in another unit."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


Weights = Literal["none", "linear", "quadratic"]


def kappa(confusion: ArrayLike, weights: Weights = "none") -> Estimate:
    """Return Cohen's kappa, −1 to 1, of a table (K, K) of how often two readers gave which of K grades.

    With weights a difference of one grade counts less than one of two: "linear" by the distance, "quadratic" by its
    square.

    Raises
    ------
    InputError
        If it is no square table of numbers of cells.

    Notes
    -----
    The interval is that of Fleiss, Cohen and Everitt (Psychol Bull 1969; 72: 323).
    """
    table = np.asarray(confusion, np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or not np.isfinite(table).all() or (table < 0).any():
        raise InputError(f"Kappa is of a square table of numbers from 0; one of shape {table.shape} was given.")
    n, k = float(table.sum()), table.shape[0]
    if n == 0:
        return Estimate(math.nan)
    share = table / n
    distance = np.abs(np.subtract.outer(np.arange(k), np.arange(k))) / max(k - 1, 1)
    differ = {"none": 1 - np.eye(k), "linear": distance, "quadratic": distance**2}[weights]
    first, second = share.sum(axis=1), share.sum(axis=0)
    observed, by_chance = float((differ * share).sum()), float(first @ differ @ second)
    if by_chance < 1e-12:  # both gave one and the same grade throughout: nothing tells agreement from chance
        return Estimate(1.0)
    value = 1 - observed / by_chance
    spread = observed * np.add.outer(differ @ second, first @ differ) - by_chance * differ
    variance = float((share * spread**2).sum()) - (observed * by_chance) ** 2
    error = math.sqrt(max(variance, 0) / n) / by_chance**2
    return Estimate(value, max(value - NORMAL_95 * error, -1.0), min(value + NORMAL_95 * error, 1.0))


def proportion(right: int, n: int) -> Estimate:
    """Return a share, 0 to 1, with its exact interval."""
    return Estimate(right / n, *exact_interval(right, n)) if n else Estimate(math.nan)


def exact_interval(hits: float, n: float) -> tuple[float, float]:
    """Return Clopper and Pearson's 95 % interval of a share, 0 to 1: of `hits` among `n` above 0.

    Neither has to be whole: cells of a cluster are worth fewer than as many independent ones.
    """
    low = float(stats.beta.ppf(0.025, hits, n - hits + 1)) if hits > 0 else 0.0
    high = float(stats.beta.ppf(0.975, hits + 1, n - hits)) if n - hits > 1e-9 else 1.0
    return low, high
