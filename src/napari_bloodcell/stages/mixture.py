"""Mixture model of single and overlapping cells, which tells how many red cells a region of some area is.

Areas are relative to that of a single cell. Single cells are log-normal, with a wide second component for the sizes
seen in anaemia; k touching or overlapping cells cover 1 + (k - 1) f areas, with f near 1. The model is fitted by
expectation maximisation on a histogram, so its time does not grow with the number of cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

STEP = 0.01
"""Width of a bin, areas of a single cell."""
DEBRIS = 0.25
"""Regions smaller than this, areas of a single cell, tell nothing about the size of cells."""
NEVER_TWO = 1.2
"""A smaller region is never more than one cell."""
ADDED_AREA = 0.95
"""Area added by a second cell if the data do not tell (some of it lies on the first)."""
ADDED_AREA_RANGE = (0.7, 1.2)
OVERLAP_SPREAD = 0.07
"""Variation of the overlap from clump to clump, areas of a single cell."""
RARE = 0.004
"""Largest share of doubles if no second mode is seen."""
FALLING = 0.3
"""Initial ratio of clumps of k + 1 cells to clumps of k."""
ODD_SPREAD = 0.3
"""Spread (of the logarithm) of the sizes of abnormal single cells."""
DEFAULT_SPREAD = 0.15
"""Spread (of the logarithm) of normal single cells if there are too few to measure it."""
N_ITERATIONS = 40
DOUBTFUL_TOGETHER = 0.3
"""Doubtful regions err together, because the fitted weights are not exact: by this share (one standard deviation) of
the number of regions expected to be counted wrong. The value is that of simulated smears."""
EXACT_REGIONS = 500
"""Up to this many doubtful regions the interval is exact; beyond, their sum is taken as normal."""


@dataclass(frozen=True, slots=True, eq=False)
class OverlapModel:
    """Probabilities of 1..K cells as a step function of the area.

    `single_area` is that of a typical single cell, pixels²; `spread` that of the log areas of single cells;
    `added_area` what each further cell adds, single areas; `has_doubles` whether a second mode was seen near twice the
    single area. `probabilities` (G, K) float32 holds, for areas in ``[g, g + 1) * STEP * single_area``, the probability
    of k + 1 cells; the last row holds for all larger areas.
    """

    single_area: float
    spread: float
    added_area: float
    has_doubles: bool
    probabilities: NDArray[np.float32]

    def row_of(self, areas: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the row of `probabilities` for each area, shape (N,)."""
        relative = areas * (1.0 / (self.single_area * STEP))
        return np.asarray(np.minimum(relative, len(self.probabilities) - 1), np.int64)

    def thresholds(self) -> NDArray[np.float64]:
        """Return the rising areas, pixels², from which 2, 3, … cells are more probable than fewer, shape (≤ K - 1,)."""
        more_than = 1.0 - np.cumsum(self.probabilities[:, :-1], axis=1, dtype=np.float64)
        is_probable = more_than >= 0.5
        reached = is_probable[:, is_probable.any(axis=0)]  # the highest numbers may not be probable at any area
        return np.asarray(reached.argmax(axis=0) * STEP * self.single_area, np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """The number of red cells with probabilities (of overlap only, not of segmentation errors).

    `regions` (N, K) float32 is the probability of 1..K cells in each RBC region, in the order of the areas; `mean` the
    expected number of cells, `low` and `high` the ends of its central 95 % interval.
    """

    regions: NDArray[np.float32]
    mean: float
    low: int
    high: int


def typical_area(areas: NDArray[np.floating], expected: float | None = None) -> float:
    """Return the area of a typical single cell, pixels²: the main mode of the logarithms of the areas.

    `areas` (N ≥ 1,) are those of whole regions, pixels²; debris and clumps may be among them. `expected`, from the
    calibration, only decides between modes. Modes compete by height times the root of their area, so that debris has to
    outnumber cells by far, and doubles have to be about 40 % of all regions, to be taken for the typical cell.
    """
    logs = np.log(areas)
    bandwidth = max(scott_bandwidth(logs), 0.03)
    low, high = float(logs.min()) - 4 * bandwidth, float(logs.max()) + 4 * bandwidth
    points = int(np.clip((high - low) / (bandwidth / 8), 256, 65536))
    grid, density = binned_kde(logs, bandwidth, low=low, high=high, points=points)
    peaks = density_peaks(grid, density, n=len(logs), bandwidth=bandwidth, significance=1.0)
    height = density[peaks] * np.exp(0.5 * (grid[peaks] - grid[peaks[0]]))
    if expected is not None:
        height = height * np.exp(-0.5 * ((grid[peaks] - np.log(expected)) / 0.35) ** 2)
    return float(np.exp(grid[peaks[int(np.argmax(height))]]))


def fit_overlap(
    areas: NDArray[np.floating], single_area: float, *, max_cells: int, doubles_are_round: bool = False
) -> OverlapModel:
    """Fit the overlap model to the areas (N,), pixels², of regions that do not touch the image's edge.

    `max_cells` is K. With `doubles_are_round`, regions of about twice the single area are taken to be large cells. The
    probability of more than k cells never falls with the area.
    """
    x = _relative_areas(max_cells)
    counts = linear_histogram(areas / single_area, x[0], STEP, x.size)
    counts[x < DEBRIS] = 0
    has_doubles = max_cells > 1 and not doubles_are_round and _has_second_mode(counts, x)
    spread, odd_share, added_area = _lower_spread(counts, x), 0.05, ADDED_AREA
    clumps = _rare_clumps(max_cells)
    for _ in range(N_ITERATIONS):
        parts = np.exp(_log_parts(x, spread, odd_share, added_area, clumps))
        share = parts / np.maximum(parts.sum(0), 1e-300) * counts
        spread, odd_share = _refit_single(share[:2], x, spread)
        if has_doubles:
            clumps = _refit_clumps(share.sum(1))
            second = share[2] + 1e-9
            added_area = float(np.clip(np.average(x, weights=second) - 1, *ADDED_AREA_RANGE))
    probabilities = _posterior(_log_parts(x, spread, odd_share, added_area, clumps), x)
    return OverlapModel(single_area, spread, added_area, has_doubles, probabilities)


def default_overlap(single_area: float, *, max_cells: int) -> OverlapModel:
    """Return the model for images with too few cells to fit one: usual spread, rare clumps."""
    x = _relative_areas(max_cells)
    parts = _log_parts(x, DEFAULT_SPREAD, 0.05, ADDED_AREA, _rare_clumps(max_cells))
    return OverlapModel(single_area, DEFAULT_SPREAD, ADDED_AREA, False, _posterior(parts, x))


def sum_up(model: OverlapModel | None, areas: NDArray[np.float64], *, max_cells: int) -> Posterior:
    """Return the probabilities for every region, areas (N,) in pixels², and the distribution of their sum."""
    if model is None:
        return Posterior(np.empty((0, max_cells), np.float32), 0.0, 0, 0)
    row = model.row_of(areas)
    table = model.probabilities.astype(np.float64)
    regions = np.bincount(row, minlength=len(table))
    cells = np.arange(1, max_cells + 1)
    row_mean = table @ cells
    mean = float(regions @ row_mean)
    variance = float(regions @ np.maximum(table @ cells**2 - row_mean**2, 0))
    doubtful = table.max(1) < 1 - 1e-6
    if int(regions[doubtful].sum()) <= EXACT_REGIONS:
        sure = int(regions[~doubtful] @ cells[table[~doubtful].argmax(1)])
        low, high = (float(sure + end) for end in _sum_interval(table[doubtful], regions[doubtful]))
    else:
        low, high = mean - 1.96 * np.sqrt(variance), mean + 1.96 * np.sqrt(variance)
    together = 1.96 * DOUBTFUL_TOGETHER * float(regions @ (1 - table.max(1)))
    low, high = mean - np.hypot(mean - low, together), mean + np.hypot(high - mean, together)
    return Posterior(model.probabilities[row], mean, max(round(low), areas.size), round(high))


def _sum_interval(probabilities: NDArray[np.float64], times: NDArray[np.intp]) -> tuple[int, int]:
    """Return the central 95 % interval of the sum of independent regions: row i of 1..K cells, `times[i]` times."""
    distribution = np.ones(1)
    for row, n in zip(probabilities, times, strict=True):
        for _ in range(int(n)):
            distribution = np.convolve(distribution, row)
    cumulative = np.cumsum(distribution / distribution.sum())
    low, high = np.searchsorted(cumulative, [0.025, 0.975 - 1e-12])
    n_regions = int(times.sum())
    return int(low) + n_regions, int(high) + n_regions


def _relative_areas(max_cells: int) -> NDArray[np.float64]:
    """Return the bin centres, areas of a single cell; they reach beyond `max_cells` cells."""
    return (np.arange(int((1 + 1.3 * max_cells) / STEP), dtype=np.float64) + 0.5) * STEP


def _rare_clumps(max_cells: int) -> NDArray[np.float64]:
    """Return the shares of 2..K cells if the data show no second mode, shape (K - 1,)."""
    return np.asarray(RARE * FALLING ** np.arange(max_cells - 1), np.float64)


def _has_second_mode(counts: NDArray[np.float64], x: NDArray[np.float64]) -> bool:
    """Return whether a window near twice the single area has clearly more regions than one of equal width below it."""
    cumulative = np.concatenate([[0.0], np.cumsum(counts)])
    width = round(0.3 / STEP)
    inside = cumulative[width:] - cumulative[:-width]
    start = x[: inside.size] - STEP / 2
    valley = float(inside[(start > 1.25) & (start < 1.55)].min())
    second = float(inside[(start > 1.55) & (start < 2.15)].max())
    return second >= 3 and second - valley >= 1.5 * np.sqrt(second + valley)


def _lower_spread(counts: NDArray[np.float64], x: NDArray[np.float64]) -> float:
    """Return the spread of the logarithm from the cells below the mode, where there are no clumps."""
    below = (x > 0.5) & (x < 1)
    if counts[below].sum() < 5:
        return DEFAULT_SPREAD
    return float(np.clip(np.sqrt(np.average(np.log(x[below]) ** 2, weights=counts[below])), 0.04, 0.3))


def _log_parts(
    x: NDArray[np.float64], spread: float, odd_share: float, added_area: float, clumps: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return log(weight × density) of usual single cells, odd ones, and 2, 3, … K cells, shape (K + 1, G)."""
    log_x, one = np.log(x), 1.0 - clumps.sum()

    def single(sd: float, share: float) -> NDArray[np.float64]:
        return np.asarray(np.log(share * one / sd) - 0.5 * (log_x / sd) ** 2 - log_x, np.float64)

    parts = [single(spread, 1 - odd_share), single(max(ODD_SPREAD, 1.5 * spread), odd_share)]
    for i, weight in enumerate(clumps):
        more = i + 1
        sd = np.sqrt((more + 1) * spread**2 + more * OVERLAP_SPREAD**2)
        parts.append(np.log(weight / sd) - 0.5 * ((x - 1 - more * added_area) / sd) ** 2)
    return np.array(parts)


def _refit_single(share: NDArray[np.float64], x: NDArray[np.float64], spread: float) -> tuple[float, float]:
    """Return the spread of usual and the share of odd single cells from the number of each in every bin."""
    usual, odd = float(share[0].sum()), float(share[1].sum())
    if usual < 5:
        return spread, 0.05
    new = np.sqrt(float(share[0] @ np.log(x) ** 2) / usual)
    return float(np.clip(new, 0.04, 0.3)), float(np.clip(odd / (usual + odd), 0.01, 0.3))


def _refit_clumps(total: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shares of 2..K cells from the totals of all parts; none is below a tenth of the one before."""
    shares = total[2:] / max(total.sum(), 1.0)
    shares[0] = np.clip(shares[0], RARE, 0.6)
    for i in range(1, shares.size):
        shares[i] = np.clip(shares[i], 0.1 * shares[i - 1], 0.6 * shares[i - 1])
    return np.asarray(shares / max(1.0, shares.sum() / 0.9), np.float64)


def _posterior(log_parts: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the probabilities of 1..K cells, shape (G, K), such that larger regions never hold fewer cells."""
    parts = np.exp(log_parts - log_parts.max(0))
    cells = np.concatenate([parts[:2].sum(0, keepdims=True), parts[2:]]) / parts.sum(0)
    more_than = cells[::-1].cumsum(0)[::-1]
    more_than[1:, x < NEVER_TWO] = 0
    more_than = np.maximum.accumulate(more_than, axis=1)
    more_than[0] = 1
    none_more = np.zeros((1, x.size))
    probabilities = -np.diff(np.concatenate([more_than, none_more]), axis=0).T
    return np.clip(probabilities, 0, 1).astype(np.float32)


MOST_BINS = 1 << 18
"""Bins of the finest internal grid."""
BINS_PER_BANDWIDTH = 6
"""Internal bins per bandwidth: keeps the error against the exact KDE below a thousandth of its height."""


def scott_bandwidth(values: NDArray[np.floating], *, robust: bool = True) -> float:
    """Return Scott's bandwidth of values (N ≥ 1,), spread times n^(-1/5), above 0 and in their units.

    With `robust` the spread is the smaller of the standard deviation and the interquartile range / 1.349, so that a few
    huge areas do not smear the peaks; without, the standard deviation, as in `scipy.stats.gaussian_kde`. If all values
    are equal it is 2 % of them.
    """
    n = values.size
    spread = float(np.std(values, ddof=1)) if n > 1 else 0.0
    if robust and n > 1:
        low, high = np.percentile(values, [25, 75])
        iqr = float(high - low) / 1.349
        spread = min(spread, iqr) if iqr > 0 else spread
    if spread <= 0:
        return 0.02 * float(np.max(np.abs(values))) or 1.0
    return float(spread * n ** (-0.2))


def binned_kde(
    values: NDArray[np.floating], bandwidth: float, *, low: float, high: float, points: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a grid of `points` from `low` to `high` and the Gaussian KDE of the values (N,) on it, both float64.

    Values are shared between neighbouring bins (linear binning) and the bins are filtered, so time grows with N, not
    with N times the grid. `bandwidth` is the kernel's standard deviation. Values outside the grid count in N, so the
    density then integrates to less than 1.
    """
    finer = int(np.ceil((high - low) / (points - 1) / (bandwidth / BINS_PER_BANDWIDTH)))
    finer = int(np.clip(finer, 1, max(MOST_BINS // points, 1)))
    n_bins = (points - 1) * finer + 1
    step = (high - low) / (n_bins - 1)
    bins = linear_histogram(values, low, step, n_bins)
    smooth = gaussian_filter1d(bins, bandwidth / step, mode="constant", truncate=6.0)
    density = smooth[::finer] / (max(values.size, 1) * step)
    return np.linspace(low, high, points), density


def linear_histogram(values: NDArray[np.floating], low: float, step: float, n_bins: int) -> NDArray[np.float64]:
    """Return the number of values at each of `n_bins` points, each value shared by its two neighbours, (n_bins,)."""
    position = (values - low) / step
    position = position[(position >= 0) & (position <= n_bins - 1)]
    left = np.minimum(position.astype(np.int64), n_bins - 2)
    share = position - left
    total = np.bincount(left, minlength=n_bins).astype(np.float64)
    right = np.bincount(left, weights=share, minlength=n_bins)
    total -= right
    total[1:] += right[:-1]
    return total


def density_peaks(
    grid: NDArray[np.float64], density: NDArray[np.float64], *, n: int, bandwidth: float, significance: float = 0.0
) -> NDArray[np.int64]:
    """Return the positions (P,) int64 of the peaks of a KDE, rising; empty only if the density is flat.

    `n` values and `bandwidth` went into it. With `significance` 0 every local maximum counts (the paper's rule); above,
    a peak must rise above its saddle by that many standard errors of the KDE and by 1 % of the highest peak.
    """
    padded = np.concatenate([[0.0], density, [0.0]])
    highest = float(density.max(initial=0.0))
    found, properties = find_peaks(padded, prominence=1e-9 * highest if highest > 0 else 1.0)
    if significance > 0 and found.size:
        error = np.sqrt(padded[found] * 0.2821 / (max(n, 1) * bandwidth))
        strong = properties["prominences"] > np.maximum(significance * error, 0.01 * highest)
        strong |= padded[found] == highest
        found = found[strong]
    return (found - 1).astype(np.int64)
