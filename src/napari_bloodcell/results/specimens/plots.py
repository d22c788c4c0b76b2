"""Draws comparisons with counts by hand."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from napari_bloodcell.results.specimens.measures import Measure
from napari_bloodcell.results.specimens.pages import png

_INK, _BLUE, _GREY, _RED = "#1c1f24", "#2563eb", "#9aa0a8", "#b3261e"


def plots_of(measure: Measure) -> list[str]:
    """Return the pictures of a measure of numbers: the line, and the differences; none for fewer than two pairs."""
    if measure.kind != "number" or measure.n < 2:
        return []
    return [png(draw_line(measure)), png(draw_differences(measure))]


def _figure(title: str, x_label: str, y_label: str) -> Figure:
    figure = Figure(figsize=(4.6, 3.9), dpi=120, layout="constrained", facecolor="white")
    ax = figure.add_subplot()
    ax.set_title(title, loc="left", fontsize=10, color=_INK)
    ax.set_xlabel(x_label, fontsize=9)
    ax.set_ylabel(y_label, fontsize=9)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def draw_line(measure: Measure) -> Figure:
    """Draw what was found over what was counted by hand, with the line of Passing and Bablok."""
    figure = _figure(f"{measure.name}: Passing–Bablok", "by hand", "found")
    ax = figure.axes[0]
    x, y = np.array(measure.by_hand), np.array(measure.found)
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    ends = np.array([low, high]) + np.array([-1, 1]) * 0.04 * (high - low or 1)
    ax.plot(ends, ends, color=_GREY, linewidth=1, linestyle=(0, (4, 3)), label="equal")
    line = measure.passing_bablok
    if line is not None and math.isfinite(line.slope.value):
        ax.plot(ends, line.intercept.value + line.slope.value * ends, color=_BLUE, linewidth=1.4, label="line")
        if all(map(math.isfinite, (line.slope.low, line.slope.high, line.intercept.low, line.intercept.high))):
            grid = np.linspace(float(ends[0]), float(ends[1]), 60)
            both = [line.intercept.high + line.slope.low * grid, line.intercept.low + line.slope.high * grid]
            ax.fill_between(grid, np.minimum(*both), np.maximum(*both), color=_BLUE, alpha=0.13, linewidth=0)
    ax.plot(x, y, "o", color=_INK, markersize=4, alpha=0.75, markeredgewidth=0)
    ax.set(xlim=ends, ylim=(min(ends[0], y.min()), max(ends[1], y.max())))
    ax.legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def draw_differences(measure: Measure) -> Figure:
    """Draw differences over means, with bias, limits of agreement and their intervals (Bland and Altman)."""
    figure = _figure(f"{measure.name}: Bland–Altman", "mean of both", "found − by hand")
    ax = figure.axes[0]
    x, y = np.array(measure.by_hand), np.array(measure.found)
    ax.axhline(0, color=_GREY, linewidth=1, linestyle=(0, (4, 3)))
    found = measure.bland_altman
    for estimate, colour in () if found is None else ((found.bias, _BLUE), (found.lower, _RED), (found.upper, _RED)):
        if math.isfinite(estimate.value):
            ax.axhline(estimate.value, color=colour, linewidth=1.2)
        if math.isfinite(estimate.low):
            ax.axhspan(estimate.low, estimate.high, color=colour, alpha=0.1, linewidth=0)
    ax.plot((x + y) / 2, y - x, "o", color=_INK, markersize=4, alpha=0.75, markeredgewidth=0)
    return figure
