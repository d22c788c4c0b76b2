"""The parts of the Count dock: fields for thresholds and a range of areas, the table of counts, and export."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from napari.layers import Labels
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import (
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QSizePolicy,
    QTableWidgetItem,
    QWidget,
)

from napari_bloodcell.core.cells import RBC
from napari_bloodcell.core.errors import InputError, OutputError
from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.napari.docks.base import NarrowTable, fill, fill_column, fit_height, make_button, plain, swatch
from napari_bloodcell.napari.docks.count.model import Counted, CountTask, save_histogram
from napari_bloodcell.napari.notify import notify_errors
from napari_bloodcell.napari.preferences import colour_of
from napari_bloodcell.napari.work.worker import Run, Work
from napari_bloodcell.stages.counting import is_white


class AreaFields(QWidget):
    """Thresholds and a range of areas as text, for people who do not use the mouse."""

    thresholds_entered = Signal(object)
    """Rising areas, list of float; None for those of the rule."""
    range_entered = Signal(float, float)
    range_cleared = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._factor = 1.0
        self._labels = QLabel(), QLabel()
        self._thresholds = QLineEdit()
        self._thresholds.setToolTip(
            "Areas from which a region counts as 2, 3, 4, … cells. Drag them in the plot, or type: 70, 110"
        )
        self._thresholds.setPlaceholderText("none")
        self._automatic = make_button("Auto", "Take the thresholds of the rule again")
        self._automatic.setEnabled(False)
        self._range = QLineEdit()
        self._range.setToolTip("Select the red cells whose area lies in a range. Drag in the plot, or type: 30–50")
        self._range.setPlaceholderText("drag in the plot")
        self._clear = make_button("Clear", "Select no cell")
        self._clear.setEnabled(False)
        self._found = QLabel()
        layout = QFormLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addRow(self._labels[0])
        thresholds = fill(QHBoxLayout(), self._thresholds, self._automatic, stretched=[self._thresholds])
        layout.addRow(thresholds)  # over the full width: there are four or five of them
        layout.addRow(self._labels[1], fill(QHBoxLayout(), self._range, self._clear, stretched=[self._range]))
        fill_column(self, layout, self._found)
        self._found.hide()
        self._thresholds.editingFinished.connect(self._on_thresholds)
        self._range.editingFinished.connect(self._on_range)
        self._automatic.clicked.connect(lambda: self.thresholds_entered.emit(None))
        self._clear.clicked.connect(lambda: self.range_cleared.emit())

    def use_unit(self, pixel_size_um: float | None) -> None:
        """Show and read areas in µm² if the pixel size is known, else in pixels²."""
        self._factor = pixel_size_um**2 if pixel_size_um else 1.0
        for label, text in zip(self._labels, ("Thresholds", "Select"), strict=True):
            label.setText(f"{text} ({'µm²' if pixel_size_um else 'px²'})")

    def show_thresholds(self, thresholds: NDArray[Any] | Sequence[float], *, by_hand: bool) -> None:
        """Show the current thresholds, pixels²."""
        self._thresholds.setText(", ".join(self._text(t) for t in thresholds))
        self._thresholds.setModified(False)
        self._thresholds.setCursorPosition(0)
        self._automatic.setEnabled(by_hand)

    def show_range(self, low: float | None, high: float | None, *, n_cells: int = 0) -> None:
        """Show the selected range of areas, pixels², and the number of cells in it."""
        is_range = low is not None and high is not None
        self._range.setText(f"{self._text(low or 0.0)}–{self._text(high or 0.0)}" if is_range else "")
        self._range.setModified(False)
        self._clear.setEnabled(is_range)
        self._found.setVisible(is_range)
        self._found.setText(f"{n_cells:,} red-cell region{'' if n_cells == 1 else 's'} selected")

    def _on_thresholds(self) -> None:
        if self._thresholds.isModified():
            self._thresholds.setModified(False)
            notify_errors(lambda: self.thresholds_entered.emit(sorted(self._areas(self._thresholds.text()))))

    def _on_range(self) -> None:
        if not self._range.isModified():
            return
        self._range.setModified(False)
        if not self._range.text().strip():
            self.range_cleared.emit()
        else:
            notify_errors(self._enter_range)

    def _enter_range(self) -> None:
        ends = self._areas(self._range.text().replace("–", " ").replace("-", " "))
        if len(ends) != 2:
            raise InputError(f"{self._range.text()!r} is not a range of areas; type two numbers: 30–50")
        self.range_entered.emit(min(ends), max(ends))

    def _text(self, area: float) -> str:
        """Return an area, pixels², as text in the unit shown."""
        return f"{area * self._factor:.{0 if area * self._factor >= 100 else 1}f}"

    def _areas(self, text: str) -> list[float]:
        return [number / self._factor for number in _numbers(text)]


def _numbers(text: str) -> list[float]:
    """Parse numbers separated by commas or blanks."""
    try:
        numbers = [float(part) for part in text.replace(",", " ").replace(";", " ").split()]
    except ValueError:
        numbers = [-1.0]
    if not all(0 < n < float("inf") for n in numbers):
        raise InputError(f"{text!r} does not hold areas; type numbers above 0, separated by commas.")
    return numbers


class ExportRow(QWidget):
    """Copies and saves `counted`, the counts shown; None while there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counted | None = None
        layout = QHBoxLayout()
        for text, tip, slot in (
            ("Copy", "Copy the table of counts", lambda: notify_errors(self.copy)),
            ("Save CSV…", "Save the table of counts", lambda: self._ask_and_save("csv")),
            ("PNG…", "Save the histogram as a picture", lambda: self._ask_and_save("png")),
            ("SVG…", "Save the histogram as a drawing", lambda: self._ask_and_save("svg")),
        ):
            layout.addWidget(make_button(text, tip, slot))
        self.report = make_button("Report…", "Save one page to print and to sign, with all numbers, as HTML or PDF")
        fill_column(self, layout, self.report)

    def copy(self) -> None:
        """Copy the table of counts, for a spreadsheet."""
        clipboard = QGuiApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(self._shown().to_text(delimiter="\t"))

    def save(self, path: str | Path) -> None:
        """Save the table (.csv) or the histogram (.png, .svg, .pdf).

        Raises `InputError` if there is nothing to save or the suffix differs, `OutputError` if writing fails.
        """
        path, counted = Path(path), self._shown()
        kind = path.suffix.lower()
        if kind not in (".csv", ".png", ".svg", ".pdf"):
            raise InputError(f"{path.name!r} ends in {kind!r}; tables are saved as .csv, histograms as .png or .svg.")
        try:
            if kind == ".csv":
                path.write_text(counted.to_text(), encoding="utf-8", newline="\n")
            else:
                save_histogram(path, counted)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error}. Choose another folder.") from error

    def _shown(self) -> Counted:
        if self.counted is None:
            raise InputError("Nothing is counted yet: segment and classify an image first.")
        return self.counted

    def _ask_and_save(self, kind: str) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Save", f"counts.{kind}", f"{kind.upper()} (*.{kind})")
        if name:
            path = Path(name) if Path(name).suffix else Path(f"{name}.{kind}")
            notify_errors(lambda: self.save(path))


class LaterCount(QObject):
    """Counts one task at a time in a worker; of several waiting ones only the last."""

    counted = Signal(object, object)
    """The layer, and its `Counted`."""
    failed = Signal(object)
    """`BloodCellError`."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._work = Work(self)
        self._next: tuple[Labels, CountTask] | None = None

    @property
    def is_running(self) -> bool:
        """Whether something is being counted."""
        return self._work.is_running

    def ask(self, layer: Labels, task: CountTask) -> None:
        """Count this instead of anything that is waiting."""
        self._next = (layer, task)
        if not self._work.is_running:
            self._start()

    def forget(self) -> None:
        """Deliver nothing of the running count."""
        self._next = None
        self._work.shut_down()

    def _start(self) -> None:
        if self._next is None:
            return
        (layer, task), self._next = self._next, None

        def job(_should_stop: Callable[[], bool]) -> Generator[Progress, None, Counted]:
            yield Progress(0, 0, "counting")
            return task.run()

        run = Run(self._work)
        run.done.connect(partial(self._on_done, run, layer))
        run.start(job)

    def _on_done(self, run: Run, layer: Labels, counted: Counted | None) -> None:
        if self._next is not None:  # this count is out of date
            self._start()
        elif counted is not None:
            self.counted.emit(layer, counted)
        elif run.error is not None:
            self.failed.emit(run.error)


COLUMNS: Final = (
    ("Type", "Type of the cells"),
    ("Cells", "Red cells are corrected for overlap; all others count one by one"),
    ("95 % or share", "Red cells: 95 % interval, as overlap leaves it in doubt. White cells: their differential"),
    ("/ mm²", "Cells per mm² of the counted area"),
)
UNCORRECTED, ALL_WHITE, ABNORMAL = "RBC, uncorrected", "White cells, all", "Marked as abnormal"
SUMS: Final = {
    UNCORRECTED: "Red-cell regions as they were segmented",
    ALL_WHITE: "WBC and all their classes together",
    ABNORMAL: "Cells of any class that a person marked in the Review dock",
}
"""Rows that are not types, with their tooltips."""


class CountTable(NarrowTable):
    """Counts, one type per row, and the uncorrected number of red cells; fits a dock of 350 px."""

    def __init__(self) -> None:
        super().__init__(COLUMNS, "Counts")
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        fit_height(self)

    def show_rows(
        self,
        counted: Counted | None,
        names: Sequence[str],
        chosen: Mapping[str, str] | None = None,
    ) -> None:
        """Show these counts. `names` are all types, which default colours depend on; `chosen` overrides them."""
        rows, n_white = ([], 0) if counted is None else (counted.rows, counted.n_white)
        lines: list[tuple[str, tuple[str, str, str]]] = []
        for row in rows:
            doubt = "" if row.interval is None else f"{row.interval[0]:,}–{row.interval[1]:,}"
            share = "" if row.percent is None else f"{row.percent:.1f} %"
            lines.append((row.cell_type, (f"{row.cells:,}", doubt or share, _rounded(row.per_mm2))))
            if row.cell_type == RBC:
                lines.append((UNCORRECTED, (f"{row.regions:,}", "", "")))
        if n_white > max((row.cells for row in rows if is_white(row.cell_type)), default=0):
            lines.append((ALL_WHITE, (f"{n_white:,}", "", "")))
        if counted is not None and counted.counting.n_abnormal:
            lines.append((ABNORMAL, (f"{counted.counting.n_abnormal:,}", "", "")))
        self.setRowCount(len(lines))
        for i, (name, texts) in enumerate(lines):
            first = QTableWidgetItem(name)
            first.setToolTip(SUMS.get(name) or plain(name))
            colour = (chosen or {}).get(name) or colour_of(name, [*names, name]) if name not in SUMS else None
            first.setIcon(swatch(colour))
            self.setItem(i, 0, first)
            for j, text in enumerate(texts, start=1):
                item = QTableWidgetItem(text)
                item.setTextAlignment(Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight)
                self.setItem(i, j, item)
        self.setColumnHidden(3, all(row.per_mm2 is None for row in rows))
        fit_height(self)


def _rounded(number: float | None) -> str:
    """Return three significant digits, or all digits before the point."""
    return "" if number is None else f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
