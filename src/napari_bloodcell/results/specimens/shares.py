"""Intervals of shares and densities of a specimen, whose cells come in fields that differ."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2, t

from napari_bloodcell.core.statistics import Estimate, exact_interval

LEVEL = 0.95
"""Of all intervals."""
_TAIL = (1 - LEVEL) / 2


UNKNOWN = Estimate(np.nan)


def share_of(part: ArrayLike, whole: ArrayLike) -> Estimate:
    """Return what share `part` is of `whole`, cells in each field (N,).

    The interval is the exact one of as many independent cells as these are worth: cells of a field resemble
    each other, so fields that differ more than chance would have them widen it.
    """
    a, n = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    total = float(n.sum())
    if not total:
        return UNKNOWN
    share = float(a.sum()) / total
    worth = total / _spread_over_chance(a - share * n, total * share * (1 - share))
    return Estimate(share, *exact_interval(share * worth, worth))


def ratio_of(a: ArrayLike, b: ArrayLike) -> Estimate:
    """Return how many `a` there are for one `b`, cells in each field (N,)."""
    share = share_of(a, np.asarray(a) + np.asarray(b))
    if not np.sum(b):
        return UNKNOWN
    value, low, high = (x / (1 - x) if x < 1 else np.inf for x in (share.value, share.low, share.high))
    return Estimate(value, low, high)


def density_of(cells: ArrayLike, areas: ArrayLike) -> Estimate:
    """Return the cells per area, given both for each field (N,).

    The interval is Poisson's exact one, widened as that of shares.
    """
    n, area = np.asarray(cells, np.float64), np.asarray(areas, np.float64)
    total = float(area.sum())
    if not total:
        return UNKNOWN
    found = float(n.sum())
    spread = _spread_over_chance(n - found / total * area, found)
    worth = found / spread
    low = float(chi2.ppf(_TAIL, 2 * worth)) / 2 if worth else 0.0
    high = float(chi2.ppf(1 - _TAIL, 2 * (worth + 1))) / 2
    return Estimate(found / total, low * spread / total, high * spread / total)


def _spread_over_chance(residuals: NDArray[np.float64], variance: float) -> float:
    """Return by what factor fields vary more than chance, at least 1; of few fields more, as it is not well known."""
    n_fields = len(residuals)
    if n_fields < 2 or variance <= 0:
        return 1.0
    found = float(residuals @ residuals) * n_fields / (n_fields - 1) / variance
    unsure = (float(t.ppf(1 - _TAIL, n_fields - 1)) / 1.96) ** 2
    return 1.0 + max(found - 1.0, 0.0) * unsure
