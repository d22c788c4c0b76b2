"""Draws results on any matplotlib Axes, and as PNG files: no Qt, no pyplot, no global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from napari_bloodcell.core.cells import BUILTIN_TYPES, RBC, TYPE_COLOURS, UNIDENTIFIED, type_colour
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.stages.counting import Counting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

LARGEST_OVERLAY_PX = 8192
"""Overlays of larger smears are drawn from every second, third, … pixel."""
NARROWEST_STRIP_PX = 260
_GREY = "#9aa0a8"
_BINS = 90


def draw_kde(counting: Counting, ax: Axes, *, pixel_size_um: float | None = None) -> list[Line2D]:
    """Draw the histogram of the RBC areas with KDE, peaks and thresholds (paper Fig. 6); return the threshold lines.

    Text keeps the colours of `ax`, so that it fits any theme. `pixel_size_um` adds an axis in µm².
    """
    ink = ax.xaxis.label.get_color()
    ax.set_xlabel("Area of a red-cell region (px²)")
    ax.set_ylabel("Regions")
    ax.spines[["top", "right"]].set_visible(False)
    if counting.areas.size == 0:
        ax.text(0.5, 0.5, "No red cells", transform=ax.transAxes, ha="center", va="center", color=ink, fontsize=13)
        ax.set(xticks=[], yticks=[])
        return []
    right = _right_end(counting)
    top = _draw_areas(counting, ax, right)
    _draw_density(counting, ax, right, top, ink)
    lines = _draw_thresholds(counting, ax, right, ink)
    ax.set(xlim=(0, right), ylim=(0, 1.22 * top))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.set_title(
        f"{counting.counts[RBC]:,} red cells in {counting.areas.size:,} regions", loc="left", color=ink, pad=20
    )
    rule = f"rule “{counting.rule}”"
    if counting.interval is not None:
        rule = "95 % interval {:,} to {:,} · ".format(*counting.interval) + rule
    ax.annotate(
        rule,
        (0, 1),
        (0, 6),
        xycoords="axes fraction",
        textcoords="offset points",
        color=ink,
        alpha=0.7,
        fontsize="small",
    )
    legend = ax.legend(fontsize="small", labelcolor=ink, loc="center right", framealpha=0.9, edgecolor="none")
    legend.get_frame().set_facecolor(ax.get_facecolor())
    if pixel_size_um is not None:
        factor = pixel_size_um**2
        second = ax.secondary_xaxis(-0.17, functions=(lambda a: np.multiply(a, factor), lambda a: np.divide(a, factor)))
        second.set_xlabel("… in µm²", color=ink)
    return lines


def _right_end(counting: Counting) -> float:
    """Return the end of the x axis: shows nearly all regions, the second mode and the first threshold."""
    ends = [1.05 * float(np.quantile(counting.areas, 0.995)), 2.6 * counting.single_area]
    if counting.thresholds.size:
        ends.append(1.15 * float(counting.thresholds[0]))
    return max(min(ends[0], 6.5 * counting.single_area), *ends[1:])


def _draw_areas(counting: Counting, ax: Axes, right: float) -> float:
    """Draw the histogram, whole regions below those cut by the edge; return the highest bar."""
    bins = np.linspace(0, right, _bins(counting, right) + 1)
    whole, cut = counting.areas[~counting.at_edge], counting.areas[counting.at_edge]
    heights = [np.histogram(areas, bins)[0] for areas in (whole, cut)]
    style: dict[str, Any] = {"width": np.diff(bins), "align": "edge", "linewidth": 0}
    ax.bar(bins[:-1], heights[0], color=TYPE_COLOURS[RBC], alpha=0.35, label="whole", **style)
    if cut.size:
        ax.bar(bins[:-1], heights[1], bottom=heights[0], color=_GREY, alpha=0.55, label="cut by the edge", **style)
    return float(max((heights[0] + heights[1]).max(), 1))


def _bins(counting: Counting, right: float) -> int:
    """Return a number of bins that suits the number of regions."""
    spread = float(np.subtract(*np.quantile(counting.areas, [0.75, 0.25])))
    width = 2 * spread * counting.areas.size ** (-1 / 3)
    return int(np.clip(right / width, 24, _BINS)) if width > 0 else 24


def _draw_density(counting: Counting, ax: Axes, right: float, top: float, ink: Any) -> None:
    """Draw the KDE, in the units of the histogram, and its peaks with their areas."""
    shown = counting.grid <= right
    scale = counting.n_in_kde * right / _bins(counting, right)
    grid, height = counting.grid[shown], counting.density[shown] * scale
    ax.plot(grid, height, color=ink, linewidth=1.4, label="density (KDE)")
    peaks = counting.peaks[counting.peaks <= right]
    at_peak = np.interp(peaks, grid, height)
    ax.plot(peaks, at_peak, "o", color=TYPE_COLOURS[RBC], markeredgecolor="white", markersize=6, label="peak")
    taken = -np.inf
    for x, y in zip(peaks, at_peak, strict=True):
        if y > 0.015 * top and x - taken > 0.08 * right:
            taken = float(x)
            ax.annotate(
                f"{x:,.0f}", (x, y), (7, 4), textcoords="offset points", color=ink, fontsize="small", clip_on=True
            )


def _draw_thresholds(counting: Counting, ax: Axes, right: float, ink: Any) -> list[Line2D]:
    """Draw the thresholds and, between them, how many regions count as how many cells."""
    edges = np.concatenate([[0.0], counting.thresholds, [np.inf]])
    cells = np.searchsorted(counting.thresholds, counting.areas, side="right")
    regions = np.bincount(cells, minlength=edges.size - 1)
    style: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "va": "top", "color": ink, "fontsize": "small"}
    lines = []
    for i, area in enumerate(counting.thresholds[counting.thresholds < right]):
        label = "threshold" if i == 0 else None
        lines.append(ax.axvline(float(area), color=ink, linestyle=(0, (4, 3)), linewidth=1, alpha=0.75, label=label))
    for i, n in enumerate(regions):
        left, end = float(edges[i]), min(float(edges[i + 1]), right)
        if end - left < 0.1 * right or (i and not n):
            continue
        middle, text = (left + end) / 2, f"{i + 1} cell{'s' if i else ''}\n× {n:,}"
        ax.text(middle, 0.99, text, **style, ha="center")
    larger = int((counting.areas > right).sum())
    if larger:
        ground = {"facecolor": ax.get_facecolor(), "edgecolor": "none", "pad": 1.5}
        ax.text(right, 0.85, f"{larger:,} larger ▸ ", **style, ha="right", bbox=ground)
    return lines


def save_kde_png(path: str | Path, counting: Counting, *, pixel_size_um: float | None = None) -> None:
    """Write `draw_kde` as PNG, 1280×800 px."""
    figure = Figure(figsize=(8, 5), dpi=160, layout="constrained", facecolor="white")
    draw_kde(counting, figure.add_subplot(), pixel_size_um=pixel_size_um)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(str(path))


def draw_overlay(
    image: NDArray[np.uint8],
    cells: NDArray[np.integer],
    types: NDArray[np.uint8],
    names: Sequence[str],
    *,
    thickness: int | None = None,
) -> NDArray[np.uint8]:
    """Return a copy of the image with each cell outlined in the colour of its type.

    `image` is (Y, X, 3) uint8, `cells` (Y, X) the label image, `types` (Y, X) 1 + the position in `names`; 0 is grey.
    Lines lie inside the cells and are `thickness` px wide; None: 1 to 3 by the size of the cell.
    """
    if not image.shape[:2] == cells.shape == types.shape:
        raise InputError(
            f"Image {image.shape[:2]}, cells {cells.shape} and types {types.shape} must have the same height and width."
        )
    colours = [UNIDENTIFIED, *names]
    palette = np.array([to_rgb(type_colour(name, names)) for name in colours])
    lut = np.zeros((256, 3), np.uint8)
    lut[: len(palette)] = np.rint(255 * palette)
    lines = outlines(cells, thickness)
    drawn = image.copy()
    drawn[lines] = lut[types[lines]]
    return drawn


def outlines(cells: NDArray[np.integer], thickness: int | None = None) -> NDArray[np.bool_]:
    """Return the pixels of cells, (Y, X) bool, within `thickness` px of another cell or of background.

    None: a sixteenth of the cell's width, but 1 to 3 px.
    """
    if thickness is None:
        width = 2 * np.sqrt(np.bincount(cells.ravel(), minlength=2) / np.pi)
        wanted = np.clip(np.rint(width / 16), 1, 3).astype(np.uint8)
    else:
        wanted = np.full(int(cells.max(initial=0)) + 1, thickness, np.uint8)
    wanted[0] = 0
    lines = np.zeros(cells.shape, bool)
    for distance in range(1, int(wanted[1:].max(initial=0)) + 1):
        found = np.zeros(cells.shape, bool)
        for axis in (0, 1):
            if cells.shape[axis] > distance:
                moved, target = np.moveaxis(cells, axis, 0), np.moveaxis(found, axis, 0)
                differs = moved[distance:] != moved[:-distance]
                target[distance:] |= differs
                target[:-distance] |= differs
        y, x = np.nonzero(found)
        thick = wanted[cells[y, x]] >= distance
        lines[y[thick], x[thick]] = True
    return lines


def save_overlay_png(
    path: str | Path,
    image: NDArray[np.uint8],
    cells: NDArray[np.integer],
    types: NDArray[np.uint8],
    names: Sequence[str],
    *,
    counts: Mapping[str, int],
    interval: tuple[int, int] | None = None,
) -> None:
    """Write `draw_overlay` as PNG with a legend of colours and counts below.

    Beyond 8192 px a side only every second, third, … pixel is drawn. `counts` are cells per type: types without cells
    are left out, except RBC, WBC and platelet. `interval` is (low, high) of the number of RBC.
    """
    step = -(-max(cells.shape) // LARGEST_OVERLAY_PX)
    overlay = draw_overlay(
        np.asarray(image[::step, ::step]), np.asarray(cells[::step, ::step]), np.asarray(types[::step, ::step]), names
    )
    entries = [
        (
            type_colour(name, names),
            f"{name} {n:,}" + (f" (95 %: {interval[0]:,}–{interval[1]:,})" if name == RBC and interval else ""),
        )
        for name, n in counts.items()
        if n or name in BUILTIN_TYPES
    ]
    strip = _strip(entries, max(overlay.shape[1], NARROWEST_STRIP_PX))
    if overlay.shape[1] < strip.shape[1]:
        overlay = np.pad(overlay, ((0, 0), (0, strip.shape[1] - overlay.shape[1]), (0, 0)), constant_values=255)
    imsave(str(path), np.concatenate([overlay, strip]), format="png")


def _strip(entries: Sequence[tuple[str, str]], width: int) -> NDArray[np.uint8]:
    """Return a white strip with a square and a text for each entry, on as many lines as needed.

    It is `width` px wide, or wider if an entry needs that.
    """
    size = float(np.clip(width / 55, 13, 44))
    line, pad = round(2.0 * size), round(0.9 * size)
    figure = Figure(dpi=72, facecolor="white")
    canvas: Any = FigureCanvasAgg(figure)
    renderer = canvas.get_renderer()
    labels = [figure.text(0, 0, text, fontsize=size, color="#22252a", va="center") for _, text in entries]
    widths = [1.45 * size + label.get_window_extent(renderer).width for label in labels]
    width = max(width, int(max(widths, default=0)) + 2 * pad + 1)
    placed, x, row = [], float(pad), 0
    for (colour, _), label, needed in zip(entries, labels, widths, strict=True):
        if x > pad and x + needed > width - pad:
            x, row = float(pad), row + 1
        placed.append((colour, label, x, row))
        x += needed + 1.6 * size
    height = line * (row + 1) + round(0.6 * size)
    figure.set_size_inches(width / 72, height / 72)
    for colour, label, left, at in placed:
        middle = height - 0.3 * size - (at + 0.5) * line
        label.set_position(((left + 1.45 * size) / width, middle / height))
        square = Rectangle((left, middle - 0.5 * size), size, size, facecolor=colour, edgecolor="none", transform=None)
        figure.add_artist(square)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
