"""Curves and tries of a training, drawn while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from napari.utils.theme import get_theme
from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

from napari_bloodcell.learning.reports import Epoch
from napari_bloodcell.napari.docks.base import narrow_headers

HEIGHT_PX: Final = 280
"""Minimum height of the canvas, which other docks would squeeze."""
COLOURS: Final = {"training": "#3b82f6", "validation": "#f97316"}


class TrainingPlot(FigureCanvasQTAgg):
    """Loss above accuracy, by epoch, for training and validation part."""

    def __init__(self) -> None:
        super().__init__(Figure(layout="constrained"))  # type: ignore[no-untyped-call]
        self.setMinimumHeight(HEIGHT_PX)
        self.setAccessibleName("Loss and accuracy by epoch")
        self.setToolTip("Loss and accuracy after each pass over the examples; the ring marks the best, which is kept")
        axes = self.figure.subplots(2, 1, sharex=True)
        self._axes: tuple[Any, Any] = (axes[0], axes[1])
        self._lines: dict[tuple[int, str], Any] = {}
        for i, (axis, name) in enumerate(zip(self._axes, ("Loss", "Accuracy (%)"), strict=True)):
            axis.set_ylabel(name)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            for part, colour in COLOURS.items():
                (line,) = axis.plot([], [], "-o", color=colour, markersize=3, linewidth=1.5, label=part)
                self._lines[i, part] = line
        self._axes[1].set_xlabel("Epoch")
        self._legend = self._axes[0].legend(loc="upper right", fontsize="small", frameon=False)
        (self._best,) = self._axes[0].plot([], [], "o", markersize=9, markerfacecolor="none", markeredgewidth=1.5)
        self.epochs: list[Epoch] = []
        self.show_epochs([])

    def sizeHint(self) -> QSize:
        """Return a small size; the figure's own would make the dock wide and tall."""
        return QSize(280, HEIGHT_PX)

    def minimumSizeHint(self) -> QSize:
        """Return a size that is readable in a dock of 350 px."""
        return QSize(120, HEIGHT_PX)

    def show_epochs(self, epochs: Sequence[Epoch]) -> None:
        """Show these epochs."""
        self.epochs = list(epochs)
        numbers = [epoch.number for epoch in epochs]
        values = {
            (0, "training"): [epoch.train_loss for epoch in epochs],
            (0, "validation"): [epoch.val_loss for epoch in epochs],
            (1, "training"): [100 * epoch.train_accuracy for epoch in epochs],
            (1, "validation"): [100 * epoch.val_accuracy for epoch in epochs],
        }
        for key, line in self._lines.items():
            line.set_data(numbers, values[key])
        best = min(epochs, key=lambda epoch: epoch.val_loss, default=None)
        self._best.set_data([best.number] if best else [], [best.val_loss] if best else [])
        for axis, top in zip(self._axes, (1.0, 100.0), strict=True):
            if numbers:
                axis.relim()
                axis.autoscale(axis="y")
            else:
                axis.set_ylim(0, top)
        self._axes[1].set_xlim(0.5, max(len(numbers), 5) + 0.5)
        self._redraw()

    def use_theme(self, name: str) -> None:
        """Use the colours of a napari theme."""
        theme = get_theme(name)
        text, ground = theme.text.as_hex("long"), theme.background.as_hex("long")
        self.figure.set_facecolor(ground)
        for axis in self._axes:
            axis.set_facecolor(ground)
            axis.tick_params(colors=text, labelsize="small")
            axis.xaxis.label.set_color(text)
            axis.yaxis.label.set_color(text)
            for spine in axis.spines.values():
                spine.set_color(theme.highlight.as_hex("long"))
        for label in self._legend.get_texts():
            label.set_color(text)
        self._best.set_color(text)
        self._redraw()

    def _redraw(self) -> None:
        """Draw when Qt is idle; repeated calls cause one drawing."""
        draw: Any = self.draw_idle
        draw()


SHORT = {
    "learning_rate": ("Rate", "Learning rate"),
    "batch_size": ("Batch", "Cutouts in a step"),
    "dropout": ("Drop", "Share of dense units dropped in training"),
    "epochs": ("Epochs", "Passes over the examples"),
    "val_loss": ("Loss", "On the validation part; the least one is kept"),
    "val_accuracy": ("Acc.", "Share of the validation part that is typed right, percent"),
}


class GridTable(QTableWidget):
    """One try per row, the best in bold; a click on a header sorts."""

    def __init__(self) -> None:
        super().__init__(0, 0)
        self.setAccessibleName("Tries of the grid search")
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setShowGrid(False)
        self.setTabKeyNavigation(False)
        self.setMinimumHeight(200)
        self.tries: list[dict[str, Any]] = []

    def clear_tries(self) -> None:
        """Start over."""
        self.tries.clear()
        self.setRowCount(0)

    def add_try(self, figures: Mapping[str, Any]) -> None:
        """Add a try: its settings, `val_loss` and `val_accuracy`."""
        if not self.tries:
            self._make_columns(figures)
        self.tries.append(dict(figures))
        self.setSortingEnabled(False)
        row = self.rowCount()
        self.insertRow(row)
        for column, name in enumerate(figures):
            self.setItem(row, column, _Number(_text(name, figures[name]), float(figures[name])))
        self._embolden()
        self.setSortingEnabled(True)
        self.scrollToBottom()

    def _make_columns(self, figures: Mapping[str, Any]) -> None:
        self.setColumnCount(len(figures))
        for column, name in enumerate(figures):
            short, tip = SHORT.get(name, (name, name))
            item = QTableWidgetItem(short)
            item.setToolTip(tip)
            self.setHorizontalHeaderItem(column, item)
        narrow_headers(self, QHeaderView.ResizeMode.Stretch, smallest_px=30)

    def _embolden(self) -> None:
        """Show the try with the lowest loss in bold."""
        column = list(self.tries[0]).index("val_loss")
        rows = range(self.rowCount())
        best = min(rows, key=lambda row: _value(self.item(row, column)))
        for row in rows:
            for i in range(self.columnCount()):
                item = self.item(row, i)
                if item is not None:
                    font = item.font()
                    font.setBold(row == best)
                    item.setFont(font)


class _Number(QTableWidgetItem):
    """Sorts by value instead of text."""

    def __init__(self, text: str, value: float) -> None:
        super().__init__(text)
        self.setData(Qt.ItemDataRole.UserRole, value)
        self.setTextAlignment(Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight)

    def __lt__(self, other: QTableWidgetItem) -> bool:
        return _value(self) < _value(other)


def _value(item: QTableWidgetItem | None) -> float:
    return float("inf") if item is None else float(item.data(Qt.ItemDataRole.UserRole))


def _text(name: str, value: Any) -> str:
    if name == "val_accuracy":
        return f"{100 * value:.1f}"
    return f"{value:.3f}" if name == "val_loss" else f"{value:g}"
