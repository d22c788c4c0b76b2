"""The population of red cells: how large they are, how much they differ, whether there are two kinds of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_bloodcell.core.statistics import exact_interval

SMALL, LARGE = 0.85, 1.15
"""A cell is small, or large, whose diameter is below, or above, so many medians."""
FEWEST_FOR_MODES = 200
"""With fewer cells two modes are not told from one."""
LEAST_SHARE, LEAST_SEPARATION, LEAST_EVIDENCE = 0.1, 2.0, 10.0
"""Two modes are there if each holds this share of the cells, they lie this many (pooled) standard deviations apart
(Ashman's D), and BIC speaks for two by this much."""
BINS = 200
"""Bins of the widths that the modes are sought in."""
_PERCENTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True, slots=True)
class Population:
    """Sizes of the whole single red cells: diameters of circles of their area, pixels; intervals are of 95 %.

    Attributes
    ----------
    n : int
        Cells measured.
    mean_px, cv_percent : tuple of float
        (value, low, high). The CV is the RDW's counterpart in width; that of volume is about three times as large.
    percentiles_px : dict
        Percent of the cells that are smaller → diameter.
    small, large : tuple
        (n, percent, low, high) of cells below `SMALL` or above `LARGE` medians.
    modes_px : tuple of float
        Diameters of the two modes if the population has two, else ().
    """

    n: int
    mean_px: tuple[float, float, float]
    cv_percent: tuple[float, float, float]
    percentiles_px: dict[int, float]
    small: tuple[int, float, float, float]
    large: tuple[int, float, float, float]
    modes_px: tuple[float, ...]

    def as_dict(self, pixel_size_um: float | None) -> dict[str, Any]:
        """Return it as written to disk: lengths in pixels and, if the size of a pixel is known, in µm."""
        names = ("value", "low", "high")
        share = ("n", "percent", "low", "high")
        content: dict[str, Any] = {
            "n": self.n,
            "mean_diameter_px": dict(zip(names, self.mean_px, strict=True)),
            "cv_percent": dict(zip(names, self.cv_percent, strict=True)),
            "percentiles_px": {str(p): value for p, value in self.percentiles_px.items()},
            "small": dict(zip(share, self.small, strict=True)),
            "large": dict(zip(share, self.large, strict=True)),
            "modes_px": list(self.modes_px),
        }
        if pixel_size_um:
            content["mean_diameter_um"] = dict(zip(names, (v * pixel_size_um for v in self.mean_px), strict=True))
            content["percentiles_um"] = {str(p): v * pixel_size_um for p, v in self.percentiles_px.items()}
            content["modes_um"] = [v * pixel_size_um for v in self.modes_px]
        return content

    def sentence(self, pixel_size_um: float | None) -> str:
        """Return it in a line for people."""
        factor, unit = (pixel_size_um, "µm") if pixel_size_um else (1.0, "px")
        mean, low, high = (f"{v * factor:.3g}" for v in self.mean_px)
        said = (
            f"Single red cells: {self.n:,}, {mean} {unit} wide ({low} to {high}), CV {self.cv_percent[0]:.1f} %; "
            f"{self.small[1]:.1f} % small, {self.large[1]:.1f} % large."
        )
        if self.modes_px:
            said += f" Two sizes: {self.modes_px[0] * factor:.3g} and {self.modes_px[1] * factor:.3g} {unit}."
        return said


def population_of(areas: NDArray[np.float64]) -> Population | None:
    """Return the population of single cells with these areas (N,), pixels²; None for fewer than two."""
    if areas.size < 2:
        return None
    diameters = np.sqrt(4 * np.sort(areas) / np.pi)  # in order: quantiles of what is sorted are quick
    n, mean, sd = len(diameters), float(diameters.mean()), float(diameters.std(ddof=1))
    half, cv = 1.96 * sd / float(np.sqrt(n)), sd / mean
    cv_half = 1.96 * cv * float(np.sqrt((0.5 + cv**2) / n))
    median = float(np.median(diameters))
    return Population(
        n,
        (mean, mean - half, mean + half),
        (100 * cv, 100 * max(0.0, cv - cv_half), 100 * (cv + cv_half)),
        dict(zip(_PERCENTILES, np.percentile(diameters, _PERCENTILES).tolist(), strict=True)),
        share_of(int((diameters < SMALL * median).sum()), n),
        share_of(int((diameters > LARGE * median).sum()), n),
        _modes(diameters),
    )


def share_of(n: int, total: int) -> tuple[int, float, float, float]:
    """Return n, percent of a total, and its exact 95 % interval."""
    low, high = exact_interval(n, total)
    return n, 100 * n / total, 100 * low, 100 * high


def _modes(diameters: NDArray[np.float64]) -> tuple[float, ...]:
    """Return the two modes of diameters, in order, if they have two."""
    n = len(diameters)
    if n < FEWEST_FOR_MODES:
        return ()
    low, small, large, high = np.log(np.quantile(diameters, (0.002, 0.2, 0.8, 0.998)))  # a crumb is no mode
    if high - low < 1e-6:
        return ()
    edges = np.linspace(low, high, BINS + 1)
    below = np.searchsorted(diameters, np.exp(edges[1:-1]))
    x, numbers = (edges[1:] + edges[:-1]) / 2, np.diff(below, prepend=0, append=n).astype(np.float64)
    mean = float(numbers @ x) / n
    sd = float(np.sqrt(numbers @ (x - mean) ** 2 / n))
    one = float(numbers @ _logs(x, np.ones(1), np.array([mean]), np.array([sd]))[0])
    weights, means, sds = np.full(2, 0.5), np.array([small, large]), np.full(2, sd / 2)
    for _ in range(100):
        of_each = _logs(x, weights, means, sds)
        belongs = np.exp(of_each - np.logaddexp.reduce(of_each, 0)) * numbers
        total = belongs.sum(1)
        weights, means = total / n, belongs @ x / total
        sds = np.maximum(np.sqrt((belongs * (x - means[:, None]) ** 2).sum(1) / total), 0.1 * sd)
    two = float(numbers @ np.logaddexp.reduce(_logs(x, weights, means, sds), 0))
    evidence = 2 * (two - one) - 3 * np.log(n)
    separation = abs(means[1] - means[0]) / np.sqrt((sds**2).mean())
    if evidence < LEAST_EVIDENCE or weights.min() < LEAST_SHARE or separation < LEAST_SEPARATION:
        return ()
    first, second = sorted(float(v) for v in np.exp(means))
    return first, second


def _logs(
    x: NDArray[np.float64], weights: NDArray[np.float64], means: NDArray[np.float64], sds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the logarithm of each part of a mixture of normal distributions at x, but for a constant, (parts, N)."""
    return np.asarray(np.log(weights / sds)[:, None] - 0.5 * ((x - means[:, None]) / sds[:, None]) ** 2)
