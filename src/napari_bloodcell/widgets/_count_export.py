"""The Count dock's row of buttons: the table to the clipboard or a file, the histogram to a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QPushButton, QWidget

from napari_bloodcell.errors import InputError, OutputError
from napari_bloodcell.widgets._count_model import save_histogram
from napari_bloodcell.widgets._errors import notify_errors

if TYPE_CHECKING:
    from napari_bloodcell.widgets._count_model import Counted


class ExportRow(QWidget):
    """Copies and saves `counted`, the counting that is shown; None while there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counted | None = None
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for text, tip, slot in (
            ("Copy", "Copy the table of counts", lambda: notify_errors(self.copy)),
            ("Save CSV…", "Save the table of counts", lambda: self._ask_and_save("csv")),
            ("PNG…", "Save the histogram as a picture", lambda: self._ask_and_save("png")),
            ("SVG…", "Save the histogram as a drawing", lambda: self._ask_and_save("svg")),
        ):
            button = QPushButton(text)
            button.setToolTip(tip)
            button.clicked.connect(slot)
            layout.addWidget(button)

    def copy(self) -> None:
        """Copy the table of counts, for a spreadsheet."""
        clipboard = QGuiApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(self._shown().to_text(delimiter="\t"))

    def save(self, path: str | Path) -> None:
        """Save the table (.csv) or the histogram (.png, .svg, .pdf).

        Raises
        ------
        InputError
            If nothing is counted, or the ending is another.
        OutputError
            If the file cannot be written.
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
