"""Gaussian kernel density of cell areas: binned, so that a million cells take milliseconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_BINS = 1 << 18
"""Bins of the finest internal grid."""
BINS_PER_BANDWIDTH = 6
"""Internal bins in one bandwidth: the error against the exact KDE is then below a thousandth of its height."""


def scott_bandwidth(values: NDArray[np.floating], *, robust: bool = True) -> float:
    """Return Scott's bandwidth, spread times n^(-1/5), in units of the values.

    Parameters
    ----------
    values : ndarray of float, shape (N,)
        At least one value.
    robust : bool
        True: the spread is the smaller of the standard deviation and the interquartile range / 1.349, so that a few
        huge areas do not smear the peaks. False: the standard deviation, as `scipy.stats.gaussian_kde` has it.

    Returns
    -------
    float
        Above 0, also where all values are equal (then 2 % of their size).
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
    """Return a grid and the Gaussian KDE of the values on it.

    Each value is shared between its two neighbouring bins (linear binning) and the bins are filtered, which costs
    time proportional to N, not to N times the grid.

    Parameters
    ----------
    values : ndarray of float, shape (N,)
        Values outside of `low` to `high` count in N but are not seen.
    bandwidth : float
        Standard deviation of the kernel, in units of the values.
    low, high : float
        Ends of the grid.
    points : int
        Points of the grid that is returned; the one inside is finer where the bandwidth asks for it.

    Returns
    -------
    grid, density : ndarray of float64, shape (points,)
        The density integrates to 1 (or less, where the grid cuts it).
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
    """Return how many values lie at each of `n_bins` points, each value shared by its two neighbours, (n_bins,)."""
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
    grid: NDArray[np.float64],
    density: NDArray[np.float64],
    *,
    n: int,
    bandwidth: float,
    significance: float = 0.0,
) -> NDArray[np.int64]:
    """Return the positions of the density's peaks on its grid, in rising order.

    Parameters
    ----------
    grid, density : ndarray of float64, shape (points,)
        A KDE.
    n : int
        Values that went into it.
    bandwidth : float
        Its bandwidth.
    significance : float
        0: every local maximum (the paper's). Above: a peak must rise above its saddle by that many standard errors
        of the KDE and by 1 % of the highest peak.

    Returns
    -------
    ndarray of int64, shape (P,)
        Empty only where the density is flat.
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
