"""The histogram of RBC areas, with draggable thresholds and a selectable range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.backend_bases import LocationEvent, MouseEvent
from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.widgets import SpanSelector
from napari.utils.theme import get_theme
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QResizeEvent

from napari_bloodcell.core.cells import RBC
from napari_bloodcell.napari.preferences import colour_of
from napari_bloodcell.stages.counting import Counting

GRAB_PX: Final = 7
"""A threshold can be grabbed from this distance, screen pixels."""
BINS: Final = 80
"""Bars of the histogram."""
MARGINS_PX: Final = (66, 14, 48, 24)
"""Left, right, bottom and top margin of the axes, for their labels."""
HEIGHT_PX: Final = 260
"""Minimum height of the canvas, which other docks would squeeze."""


class AreaPlot(FigureCanvasQTAgg):
    """Histogram, density, peaks and thresholds of a `Counting`; its interface takes and emits areas in pixels²."""

    thresholds_moved = Signal(object)
    """Rising areas, list of float; emitted while a threshold is dragged."""
    range_chosen = Signal(float, float)
    """Lowest and highest area."""
    range_cleared = Signal()

    def __init__(self) -> None:
        super().__init__(Figure())  # type: ignore[no-untyped-call]
        self.setMinimumHeight(HEIGHT_PX)
        self.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self.setAccessibleName("Histogram of red-cell areas")
        self.setToolTip("Drag a dashed threshold to move it. Drag elsewhere to select cells of these areas.")
        self._factor, self._thresholds, self._held = 1.0, np.empty(0), -1
        self._theme: Any = None
        axes = self._axes = self.figure.add_subplot()
        self._bars = axes.stairs([0.0], [0.0, 1.0], fill=True, alpha=0.5)
        (self._curve,) = axes.plot([], [], linewidth=1.5)
        (self._peaks,) = axes.plot([], [], "v", markersize=6)
        (self._dot,) = axes.plot([], [], "o", markersize=7, zorder=5)
        self._mark = axes.axvline(0, linewidth=1.5, visible=False)
        box = {"boxstyle": "round,pad=0.3", "linewidth": 0}
        place: dict[str, Any] = {"transform": axes.transAxes, "ha": "right", "va": "top"}
        self._note = axes.text(0.98, 0.97, "", fontsize="small", bbox=box, visible=False, **place)
        self._empty = axes.text(0.5, 0.5, "No red cells yet", transform=axes.transAxes, ha="center", va="center")
        self._lines: list[tuple[Line2D, Text]] = []
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylabel("Regions")
        # Before the selector's own handlers: a threshold that is grabbed starts no range.
        self.mpl_connect("button_press_event", self._on_press)
        self.mpl_connect("motion_notify_event", self._on_move)
        self.mpl_connect("button_release_event", self._on_release)
        style = {"alpha": 0.25, "facecolor": colour_of(RBC, [])}
        self._span = SpanSelector(
            axes, self._on_span, "horizontal", useblit=True, interactive=True, drag_from_anywhere=True, props=style
        )

    @property
    def thresholds(self) -> list[float]:
        """The thresholds shown, pixels²."""
        return [float(t) for t in self._thresholds]

    @property
    def pixel_size_um(self) -> float | None:
        """Micrometres per pixel of the axis; None if it is in pixels²."""
        return None if self._factor == 1.0 else float(np.sqrt(self._factor))

    def sizeHint(self) -> QSize:
        """Return a size that fits a narrow dock."""
        return QSize(330, HEIGHT_PX)

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Keep the margins: a layout engine would double the time of each redraw."""
        super().resizeEvent(event)  # type: ignore[no-untyped-call]
        left, right, bottom, top = MARGINS_PX
        width, height = max(self.width(), left + right + 50), max(self.height(), bottom + top + 50)
        self.figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)

    def show_counting(self, counting: Counting, *, pixel_size_um: float | None = None) -> None:
        """Show the areas of a counting; the axis is in µm² if the pixel size is known."""
        self._factor = pixel_size_um**2 if pixel_size_um else 1.0
        self._axes.set_xlabel(f"Area of a red-cell region ({'µm²' if pixel_size_um else 'px²'})")
        is_empty = counting.areas.size == 0
        self._empty.set_visible(is_empty)
        right = 1.0 if is_empty else _right_end(counting)
        heights, edges = np.histogram(counting.areas, np.linspace(0, right, BINS + 1))
        self._bars.set_data(heights, edges * self._factor)
        whole = counting.areas.size if counting.rule == "paper" else int((~counting.at_edge).sum()) or 1
        height = counting.density * whole * right / BINS
        self._curve.set_data(counting.grid * self._factor, height)
        at_peaks = np.interp(counting.peaks, counting.grid, height) if counting.peaks.size else np.empty(0)
        top = max(float(heights.max()), float(height.max(initial=0)), 1.0)
        self._peaks.set_data(counting.peaks * self._factor, at_peaks + 0.04 * top)
        self._axes.set(xlim=(0, right * self._factor), ylim=(0, 1.2 * top))
        self._show_thresholds(counting.thresholds)
        self._redraw()

    def show_nothing(self) -> None:
        """Show an empty plot."""
        self._empty.set_visible(True)
        self._bars.set_data([0.0] * BINS, np.linspace(0, self._axes.get_xlim()[1], BINS + 1))
        self._curve.set_data([], [])
        self._peaks.set_data([], [])
        self.show_cell(None)
        self._show_thresholds([])
        self._redraw()

    def show_cell(self, area: float | None, text: str = "") -> None:
        """Mark a cell on the curve; None: no cell."""
        if area is None and not self._mark.get_visible() and not self._note.get_text():
            return
        x = [] if area is None else [area * self._factor]
        grid, height = (np.asarray(values, np.float64) for values in self._curve.get_data())
        self._mark.set_visible(area is not None)
        self._mark.set_xdata([*x, *x] or [0, 0])
        self._dot.set_data(x, np.interp(x, grid, height) if x and len(grid) else [0.0] * len(x))
        self._note.set(text=text, visible=bool(text))
        self._redraw()

    def show_range(self, low: float | None, high: float | None = None) -> None:
        """Show a range of areas as selected, without emitting a signal; None: no range."""
        if low is None or high is None:
            self._span.clear()
        else:
            self._span.extents = (low * self._factor, high * self._factor)
            self._span.set_visible(True)
        self._redraw()

    def use_theme(self, name: str) -> None:
        """Use the colours of a napari theme."""
        theme = self._theme = get_theme(name)
        text, ground = theme.text.as_hex("long"), theme.background.as_hex("long")
        self.figure.set_facecolor(ground)
        self._axes.set_facecolor(ground)
        self._axes.tick_params(colors=text, labelsize="small")
        for spine in self._axes.spines.values():
            spine.set_color(theme.highlight.as_hex("long"))
        for part in (self._axes.xaxis.label, self._axes.yaxis.label, self._note, self._empty):
            part.set_color(text)
        self._bars.set(facecolor=colour_of(RBC, []), edgecolor="none")
        self._curve.set_color(text)
        self._peaks.set(color=text, markeredgecolor=ground)
        for mark in (self._mark, self._dot):
            mark.set_color(theme.warning.as_hex("long"))
        self._dot.set_markeredgecolor(ground)
        patch = self._note.get_bbox_patch()
        if patch is not None:
            patch.set_facecolor(theme.foreground.as_hex("long"))
        for line, label in self._lines:
            self._colour_threshold(line, label)
        self._redraw()

    def _redraw(self) -> None:
        """Draw when Qt is idle; repeated calls cause one drawing."""
        draw: Any = self.draw_idle
        draw()

    def _colour_threshold(self, line: Line2D, label: Text) -> None:
        if self._theme is not None:
            line.set_color(to_rgba(self._theme.text.as_hex("long"), 0.85))
            label.set_color(self._theme.text.as_hex("long"))

    def _show_thresholds(self, thresholds: Sequence[float] | np.ndarray[Any, np.dtype[np.float64]]) -> None:
        self._thresholds = np.asarray(thresholds, np.float64)
        while len(self._lines) < self._thresholds.size:
            line = self._axes.axvline(0, linestyle=(0, (4, 3)), linewidth=1.2)
            cells = self._axes.text(
                0, 1.01, "", transform=self._axes.get_xaxis_transform(), fontsize="small", ha="center"
            )
            self._lines.append((line, cells))
            self._colour_threshold(line, cells)
        right = self._axes.get_xlim()[1]
        for i, (line, cells) in enumerate(self._lines):
            x = float(self._thresholds[i]) * self._factor if i < self._thresholds.size else np.inf
            line.set_visible(x <= right)
            cells.set_visible(x <= right)
            if x <= right:
                line.set_xdata([x, x])
                cells.set(x=x, text=f"≥{i + 2}")

    def _near(self, event: LocationEvent) -> int:
        """Return the index of the threshold under the mouse, or -1."""
        if event.inaxes is not self._axes or not self._thresholds.size:
            return -1
        places = self._axes.transData.transform(np.c_[self._thresholds * self._factor, np.zeros(self._thresholds.size)])
        distance = np.abs(places[:, 0] - event.x)
        nearest = int(distance.argmin())
        return nearest if distance[nearest] <= GRAB_PX * self.device_pixel_ratio else -1

    def _on_press(self, event: MouseEvent) -> None:
        self._held = self._near(event) if event.button == 1 else -1
        self._span.set_active(self._held < 0)

    def _on_move(self, event: MouseEvent) -> None:
        if self._held < 0:
            is_near = event.button is None and self._near(event) >= 0
            self.setCursor(Qt.CursorShape.SplitHCursor if is_near else Qt.CursorShape.ArrowCursor)
            return
        if event.xdata is None:
            return
        margin = 0.002 * self._axes.get_xlim()[1] / self._factor
        low = self._thresholds[self._held - 1] if self._held else 0.0
        high = self._thresholds[self._held + 1] if self._held + 1 < self._thresholds.size else np.inf
        moved = self._thresholds.copy()
        moved[self._held] = np.clip(event.xdata / self._factor, low + margin, max(high - margin, low + margin))
        self._show_thresholds(moved)
        self._redraw()
        self.thresholds_moved.emit(self.thresholds)

    def _on_release(self, _event: MouseEvent) -> None:
        self._held = -1
        self._span.set_active(True)

    def _on_span(self, low: float, high: float) -> None:
        if high - low <= 0.002 * self._axes.get_xlim()[1]:
            self.show_range(None)
            self.range_cleared.emit()
        else:
            self.range_chosen.emit(max(low, 0.0) / self._factor, high / self._factor)


def _right_end(counting: Counting) -> float:
    """Return where the axis ends, pixels²: it shows nearly all regions, doublets and the first threshold."""
    ends = [1.05 * float(np.quantile(counting.areas, 0.995)), 2.6 * counting.single_area]
    if counting.thresholds.size:
        ends.append(1.15 * float(counting.thresholds[0]))
    return max(min(ends[0], 6.5 * counting.single_area), *ends[1:])
