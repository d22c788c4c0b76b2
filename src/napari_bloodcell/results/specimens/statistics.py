"""How far two methods of measuring agree, each figure with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.statistics import NORMAL_95, Estimate

FEWEST_PAIRS = 3
"""Fewer pairs than this have no figures of agreement."""
MOST_PAIRS = 5000
"""Passing-Bablok compares each pair with each other: more would need gigabytes."""


@dataclass(frozen=True, slots=True)
class BlandAltman:
    """Differences (found − by hand): their mean, standard deviation, and the limits that hold 95 % of them."""

    n: int
    bias: Estimate
    sd: float
    lower: Estimate
    upper: Estimate


@dataclass(frozen=True, slots=True)
class PassingBablok:
    """The line found = intercept + slope · by hand, and whether a line is what fits.

    `cusum` is the statistic of the test for linearity and `p` its probability if the line is right: below 0.05 the
    relation is bent.
    """

    slope: Estimate
    intercept: Estimate
    cusum: float
    p: float


@dataclass(frozen=True, slots=True)
class Repeatability:
    """Spread of repeated measurements of the same thing.

    Attributes
    ----------
    n_repeated : int
        Specimens measured more than once.
    n : int
        Their measurements.
    sd : Estimate
        Standard deviation within a specimen.
    cv_percent : float
        It in percent of the mean.
    limit : float
        95 % of the differences between two measurements of a specimen are smaller (1.96 · √2 · sd).
    """

    n_repeated: int
    n: int
    sd: Estimate
    cv_percent: float
    limit: float


def _pairs(by_hand: ArrayLike, found: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(by_hand, np.float64), np.asarray(found, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise InputError(f"Pairs of numbers are compared; arrays of shapes {x.shape} and {y.shape} were given.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("A number that is compared is not finite. Leave such pairs out.")
    if x.size > MOST_PAIRS:
        raise InputError(f"{x.size:,} pairs were given; {MOST_PAIRS:,} can be compared at once. Compare them in parts.")
    return x, y


def bland_altman(by_hand: ArrayLike, found: ArrayLike) -> BlandAltman:
    """Return bias and limits of agreement of pairs (N,), with their intervals.

    Notes
    -----
    Bland and Altman, Lancet 1986; the standard error of a limit is that of their later paper (Stat Methods Med Res
    1999), s · √(1/n + 1.96² / (2 (n − 1))).
    """
    x, y = _pairs(by_hand, found)
    n = x.size
    if n < FEWEST_PAIRS:
        return BlandAltman(n, Estimate(float(np.mean(y - x)) if n else math.nan), math.nan, *[Estimate(math.nan)] * 2)
    differences = y - x
    bias, sd = float(differences.mean()), float(differences.std(ddof=1))
    t = float(stats.t.ppf(0.975, n - 1))
    of_bias = t * sd / math.sqrt(n)
    of_limit = t * sd * math.sqrt(1 / n + NORMAL_95**2 / (2 * (n - 1)))
    lower, upper = bias - NORMAL_95 * sd, bias + NORMAL_95 * sd
    return BlandAltman(
        n,
        Estimate(bias, bias - of_bias, bias + of_bias),
        sd,
        Estimate(lower, lower - of_limit, lower + of_limit),
        Estimate(upper, upper - of_limit, upper + of_limit),
    )


def passing_bablok(by_hand: ArrayLike, found: ArrayLike) -> PassingBablok:
    """Return the line through pairs (N,) that both may err in, with intervals and the cusum test for linearity.

    All is NaN where too few pairs differ.

    Notes
    -----
    Passing and Bablok, J Clin Chem Clin Biochem 1983; 21: 709. Slopes between identical pairs and slopes of exactly −1
    are left out, vertical ones are infinite. The probability of the cusum test is Kolmogorov's.
    """
    x, y = _pairs(by_hand, found)
    n = x.size
    i, j = np.triu_indices(n, 1)
    dx, dy = x[j] - x[i], y[j] - y[i]
    differ = (dx != 0) | (dy != 0)
    with np.errstate(divide="ignore"):
        slopes = dy[differ] / dx[differ]
    vertical = dx[differ] == 0  # dx may be −0, whose sign says nothing
    slopes[vertical] = np.inf * np.sign(dy[differ][vertical])
    slopes = np.sort(slopes[~np.isclose(slopes, -1, rtol=1e-12, atol=0)])
    n_slopes, shift = slopes.size, int(np.count_nonzero(slopes < -1))
    nothing = PassingBablok(Estimate(math.nan), Estimate(math.nan), math.nan, math.nan)
    if n < FEWEST_PAIRS or n_slopes == 0 or (n_slopes - 1) // 2 + shift >= n_slopes:
        return nothing
    middle = slopes[[(n_slopes - 1) // 2 + shift, min(n_slopes // 2 + shift, n_slopes - 1)]]
    slope = float(middle.mean()) if np.isfinite(middle).all() else math.inf
    if not math.isfinite(slope):
        return nothing
    spread = NORMAL_95 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    first = math.floor((n_slopes - spread) / 2 + 0.5)
    low, high = (_at(slopes, rank + shift) for rank in (first, n_slopes - first + 1))
    intercept = float(np.median(y - slope * x))
    ends = [float(np.median(y - end * x)) if math.isfinite(end) else math.nan for end in (high, low)]
    return PassingBablok(Estimate(slope, low, high), Estimate(intercept, *ends), *_cusum(x, y, slope, intercept))


def _at(slopes: NDArray[np.float64], rank: int) -> float:
    """Return the slope of a rank, counted from 1; NaN outside: there is no bound with so few pairs."""
    return float(slopes[rank - 1]) if 1 <= rank <= slopes.size else math.nan


def _cusum(x: NDArray[np.float64], y: NDArray[np.float64], slope: float, intercept: float) -> tuple[float, float]:
    residuals = y - intercept - slope * x
    scale = max(float(np.abs(y).max()), float(np.abs(slope * x).max()), abs(intercept))
    above = residuals > 1e-12 * scale
    below = residuals < -1e-12 * scale  # what is on the line but for rounding is neither
    n_above, n_below = int(above.sum()), int(below.sum())
    if slope <= 0 or not n_above or not n_below:
        return (0.0, 1.0) if slope > 0 else (math.nan, math.nan)
    scores = np.where(above, math.sqrt(n_below / n_above), 0) - np.where(below, math.sqrt(n_above / n_below), 0)
    along = np.argsort((y + x / slope - intercept) / math.sqrt(1 + 1 / slope**2), kind="stable")
    statistic = float(np.abs(np.cumsum(scores[along])).max()) / math.sqrt(n_below + 1)
    return statistic, float(stats.kstwobign.sf(statistic))


def concordance(by_hand: ArrayLike, found: ArrayLike) -> Estimate:
    """Return Lin's concordance correlation ρc of pairs (N,), −1 to 1.

    Notes
    -----
    Lin, Biometrics 1989; 45: 255, with the variance corrected in 2000; 56: 324. The interval is that of Fisher's z.
    """
    x, y = _pairs(by_hand, found)
    n = x.size
    if n < FEWEST_PAIRS or (np.ptp(x) == 0 and np.ptp(y) == 0):
        return Estimate(math.nan)
    apart = float(y.mean() - x.mean())
    sx, sy = float(x.std()), float(y.std())
    rho = 1 - float(np.mean((y - x) ** 2)) / (sx**2 + sy**2 + apart**2)
    if rho == 0 or abs(rho) >= 1 - 1e-12 or n < FEWEST_PAIRS + 1:
        return Estimate(rho, *((rho, rho) if abs(rho) >= 1 - 1e-12 else (math.nan, math.nan)))
    r = rho * (sx**2 + sy**2 + apart**2) / (2 * sx * sy)
    u2 = apart**2 / (sx * sy)
    variance = (1 - r**2) * rho**2 * (1 - rho**2) / r**2 + 2 * rho**3 * (1 - rho) * u2 / r - rho**4 * u2**2 / (2 * r**2)
    reach = NORMAL_95 * math.sqrt(max(variance, 0) / (n - 2)) / (1 - rho**2)
    return Estimate(rho, math.tanh(math.atanh(rho) - reach), math.tanh(math.atanh(rho) + reach))


def spearman(by_hand: ArrayLike, found: ArrayLike) -> Estimate:
    """Return Spearman's rank correlation of pairs (N,); its interval is that of Bonett and Wright (2000)."""
    x, y = _pairs(by_hand, found)
    if x.size < FEWEST_PAIRS or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Estimate(math.nan)
    rho = min(max(float(stats.spearmanr(x, y).statistic), -1.0), 1.0)
    if abs(rho) == 1 or x.size <= FEWEST_PAIRS:
        return Estimate(rho)
    reach = NORMAL_95 * math.sqrt((1 + rho**2 / 2) / (x.size - 3))
    return Estimate(rho, math.tanh(math.atanh(rho) - reach), math.tanh(math.atanh(rho) + reach))


def repeatability(specimens: Sequence[object], values: ArrayLike) -> Repeatability | None:
    """Return the spread of values (N,) within specimens that were measured more than once; None if none was.

    Notes
    -----
    The standard deviation is the root of the mean variance within specimens (Bland and Altman, BMJ 1996; 313: 744),
    its interval that of χ².
    """
    groups: dict[object, list[float]] = {}
    for specimen, value in zip(specimens, np.asarray(values, np.float64).tolist(), strict=True):
        groups.setdefault(specimen, []).append(value)
    repeated = [np.array(group) for group in groups.values() if len(group) > 1]
    if not repeated:
        return None
    n = sum(group.size for group in repeated)
    freedom = n - len(repeated)
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in repeated)
    sd = math.sqrt(squares / freedom)
    high, low = (math.sqrt(squares / float(stats.chi2.ppf(p, freedom))) for p in (0.025, 0.975))
    mean = float(np.concatenate(repeated).mean())
    cv = 100 * sd / abs(mean) if mean else math.nan
    return Repeatability(len(repeated), n, Estimate(sd, low, high), cv, NORMAL_95 * math.sqrt(2) * sd)
