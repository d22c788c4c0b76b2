"""What a training shows: curves and tries while it runs; then accuracy, confusion matrix, figures and mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from napari.utils.theme import get_theme
from numpy.typing import NDArray
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QHeaderView,
    QLabel,
    QListView,
    QListWidget,
    QListWidgetItem,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from napari_bloodcell.learning.reports import Epoch
from napari_bloodcell.napari.docks.base import PlainLabel, fill_column, form_rows, narrow_headers, plain
from napari_bloodcell.napari.docks.gallery import CELL_PX, SIDE_PX, icon_of
from napari_bloodcell.napari.docks.train.jobs import Trained

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


PART_NAMES: Final = {"test": "Test part", "val": "Validation part"}
MOST_PICTURES: Final = 300
FEW_CLASSES: Final = 4
"""This many columns fit into a dock, whatever their names."""


class ResultView(QWidget):
    """Figures of the chosen part; a click on the confusion matrix shows the cutouts behind a number."""

    def __init__(self) -> None:
        super().__init__()
        self._trained: Trained | None = None
        self.part = QComboBox()
        self.part.setToolTip("The test part was never seen in training; the validation part chose the best epoch")
        self.summary = QLabel()
        self.summary.setWordWrap(True)
        self.summary.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.confusion = _table("Confusion matrix: rows are the true classes, columns what the model says")
        self.confusion.setToolTip("Click a number to see its cells")
        self.by_class = _table("Figures by class")
        self.note = PlainLabel("Click a number of the matrix to see its cells.")
        self.pictures = QListWidget()
        self.pictures.setViewMode(QListView.ViewMode.IconMode)
        self.pictures.setResizeMode(QListView.ResizeMode.Adjust)
        self.pictures.setMovement(QListView.Movement.Static)
        self.pictures.setIconSize(QSize(SIDE_PX, SIDE_PX))
        self.pictures.setGridSize(QSize(CELL_PX.width(), SIDE_PX + 8))
        self.pictures.setMinimumHeight(SIDE_PX + 24)
        self.pictures.setAccessibleName("Cutouts behind a number")
        rows = (form_rows(On_the=self.part), self.summary, self.confusion, self.by_class, self.note, self.pictures)
        fill_column(self, *rows, stretched=self.pictures, top=6)
        self.part.currentIndexChanged.connect(lambda _: self._show_part())
        for wish in (self.confusion.cellClicked, self.confusion.cellActivated):  # by mouse, by the Enter key
            wish.connect(self.open_cell)

    def show_trained(self, trained: Trained) -> None:
        """Show the outcome of a training."""
        self._trained = trained
        self.part.blockSignals(True)
        self.part.clear()
        for name in ("test", "val"):
            if name in trained.parts:
                self.part.addItem(PART_NAMES[name], name)
        self.part.blockSignals(False)
        self._show_part()

    def open_cell(self, row: int, column: int) -> None:
        """Show the cutouts of class `row` that the model typed as class `column`."""
        trained, name = self._trained, self.part.currentData()
        if trained is None or name not in trained.parts:
            return
        part, classes = trained.parts[name], trained.training.report.classes
        cutouts = dict(zip(part.names, part.cutouts, strict=False))
        behind = trained.figures[name].cutouts
        names = behind[row][column] if behind else []
        self.pictures.clear()
        for one in names[:MOST_PICTURES]:
            item = QListWidgetItem(icon_of(_close(cutouts[one])), "")
            item.setToolTip(plain(one))
            self.pictures.addItem(item)
        n = trained.figures[name].confusion[row][column]
        more = f", the surest {MOST_PICTURES}" if n > MOST_PICTURES else ""
        what = "typed right" if row == column else f"taken for {classes[column]}"
        self.note.setText(f"{n:,} {classes[row]} {what}{more}:")

    def _show_part(self) -> None:
        trained, name = self._trained, self.part.currentData()
        self.pictures.clear()
        if trained is None or name is None:
            return
        figures, classes = trained.figures[name], trained.training.report.classes
        self.summary.setText(self._summary_of(name))
        _fill(self.confusion, [_short(c) for c in classes], [_short(c) for c in classes])
        for i, row in enumerate(figures.confusion):
            for j, number in enumerate(row):
                item = _item(f"{number:,}")
                item.setToolTip(plain(f"{number:,} {classes[i]} typed as {classes[j]}: click to see them"))
                if number and i != j:
                    item.setForeground(QColor("#e5484d"))
                self.confusion.setItem(i, j, item)
        _fill(self.by_class, [_short(c) for c in classes], ["Precision %", "Recall %", "F1 %"])
        for i, name_of in enumerate(classes):
            one = figures.per_class[name_of]
            columns = ("precision", "recall", "f1")
            for j, column in enumerate(columns):
                text = _with_interval(getattr(one, column), getattr(one, f"{column}_interval"), one.n)
                item = _item(text.replace(" (", "\n").replace(")", ""))
                item.setToolTip(plain(f"{name_of}, {one.n:,} cells; below it the 95 % interval"))
                self.by_class.setItem(i, j, item)
        for table in (self.confusion, self.by_class):
            _fit(table)

    def _summary_of(self, name: str) -> str:
        """Return a summary of a part: accuracy, change, and how the training went."""
        trained = self._trained
        if trained is None:
            return ""
        report = trained.training.report
        now = trained.figures[name]
        share = _with_interval(now.accuracy, now.accuracy_interval, now.n)
        text = f"<b>{share} %</b> of {now.n:,} cells typed right"
        change = report.change(name)
        if change is not None:
            text += f"; the model before: {100 * report.before[name].accuracy:.1f} % (<b>{100 * change:+.1f}</b>)"
        return f"<qt>{text}. Best epoch {report.best_epoch} of {len(report.history)}, {report.seconds:.0f} s.</qt>"


def _with_interval(value: float, interval: tuple[float, float], n: int) -> str:
    """Return "98.2 (95–99)", percent; "–" if there is nothing to count."""
    return f"{100 * value:.1f} ({100 * interval[0]:.0f}–{100 * interval[1]:.0f})" if n else "–"


def _table(name: str) -> QTableWidget:
    table = QTableWidget(0, 0)
    table.setAccessibleName(name)
    table.setTabKeyNavigation(False)
    table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)
    header, vertical = table.horizontalHeader(), table.verticalHeader()
    if header is not None and vertical is not None:
        header.setMinimumSectionSize(48)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        vertical.setDefaultSectionSize(vertical.minimumSectionSize())
    return table


def _fill(table: QTableWidget, rows: Sequence[str], columns: Sequence[str]) -> None:
    table.setRowCount(len(rows))
    table.setColumnCount(len(columns))
    table.setVerticalHeaderLabels(list(rows))
    table.setHorizontalHeaderLabels(list(columns))
    header = table.horizontalHeader()
    if header is not None:
        mode = QHeaderView.ResizeMode
        header.setSectionResizeMode(mode.Stretch if len(columns) <= FEW_CLASSES else mode.ResizeToContents)


def _fit(table: QTableWidget) -> None:
    """Match the height to the rows, up to eight."""
    table.resizeRowsToContents()
    header = table.horizontalHeader()
    height = sum(table.rowHeight(i) for i in range(min(table.rowCount(), 8))) + 2 * table.frameWidth() + 2
    bar = table.horizontalScrollBar()
    if bar is not None and table.columnCount() > FEW_CLASSES:
        height += bar.sizeHint().height()
    table.setFixedHeight(height + (header.sizeHint().height() if header is not None else 0))


def _item(text: str) -> QTableWidgetItem:
    item = QTableWidgetItem(text)
    item.setTextAlignment(Qt.AlignmentFlag.AlignCenter)
    return item


def _close(cutout: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the square around a cell, which may be small in its cutout, (h, h, 3)."""
    ys, xs = np.nonzero(cutout.any(axis=-1))
    if not len(ys):
        return cutout
    half = max(int(np.ptp(ys)), int(np.ptp(xs))) // 2 + 3
    y, x = (int(ys.min()) + int(ys.max())) // 2, (int(xs.min()) + int(xs.max())) // 2
    return cutout[max(y - half, 0) : y + half, max(x - half, 0) : x + half]


def _short(name: str) -> str:
    """Shorten a name, to leave room for others."""
    return name if len(name) <= 11 else f"{name[:10]}…"
