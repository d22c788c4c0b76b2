"""The table of counts in the Count dock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QSizePolicy, QTableWidgetItem

from napari_bloodcell.core.cells import RBC
from napari_bloodcell.napari.docks.base import NarrowTable, swatch
from napari_bloodcell.napari.docks.plain import plain
from napari_bloodcell.napari.preferences import colour_of
from napari_bloodcell.stages.counting import is_white

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_bloodcell.napari.docks.count.model import CountRow


COLUMNS: Final = (
    ("Type", "Type of the cells"),
    ("Cells", "Red cells are corrected for overlap; all others count one by one"),
    (
        "95 % or share",
        "Red cells: 95 % interval, as overlap leaves it in doubt. White cells: their differential",
    ),
    ("/ mm²", "Cells per mm² of the counted area"),
)
UNCORRECTED, ALL_WHITE = "RBC, uncorrected", "White cells, all"
SUMS: Final = {UNCORRECTED: "Red-cell regions as they were segmented", ALL_WHITE: "WBC and all their classes together"}
"""Rows that are not types, with their tooltips."""


class CountTable(NarrowTable):
    """Counts, one type per row, and the uncorrected number of red cells; fits a dock of 350 px."""

    def __init__(self) -> None:
        super().__init__(COLUMNS, "Counts")
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._fit()

    def show_rows(
        self,
        rows: Sequence[CountRow],
        names: Sequence[str],
        chosen: Mapping[str, str] | None = None,
        *,
        n_white: int = 0,
    ) -> None:
        """Show these counts. `names` are all types, which default colours depend on; `chosen` overrides them.

        `n_white` is the number of white cells, shown if they have several classes.
        """
        lines: list[tuple[str, tuple[str, str, str]]] = []
        for row in rows:
            doubt = "" if row.interval is None else f"{row.interval[0]:,}–{row.interval[1]:,}"
            share = "" if row.percent is None else f"{row.percent:.1f} %"
            lines.append((row.cell_type, (f"{row.cells:,}", doubt or share, _rounded(row.per_mm2))))
            if row.cell_type == RBC:
                lines.append((UNCORRECTED, (f"{row.regions:,}", "", "")))
        if n_white > max((row.cells for row in rows if is_white(row.cell_type)), default=0):
            lines.append((ALL_WHITE, (f"{n_white:,}", "", "")))
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
        self._fit()

    def _fit(self) -> None:
        """Match the height to the rows."""
        header = self.horizontalHeader()
        height = sum(self.rowHeight(i) for i in range(self.rowCount())) + 2 * self.frameWidth() + 2
        self.setFixedHeight(height + (header.sizeHint().height() if header is not None else 0))


def _rounded(number: float | None) -> str:
    """Return three significant digits, or all digits before the point."""
    return "" if number is None else f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
