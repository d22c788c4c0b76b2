"""The report of a layer's cells, as HTML or, through Qt's printer, as PDF."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from napari.components import ViewerModel
from napari.layers import Labels
from napari.utils.notifications import show_info
from qtpy.QtCore import QMarginsF
from qtpy.QtGui import QPageLayout, QPageSize, QTextDocument
from qtpy.QtPrintSupport import QPrinter
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_bloodcell.core.errors import InputError, OutputError
from napari_bloodcell.core.files import write_bytes
from napari_bloodcell.corrections.journal import Journal, default_journal_folder, image_hash
from napari_bloodcell.napari.layers.images import PlaneIndex, current_plane, image_source
from napari_bloodcell.napari.layers.links import full_resolution, image_layer_for, info_of
from napari_bloodcell.napari.layers.results import result_of
from napari_bloodcell.results.specimens.report import report
from napari_bloodcell.results.specimens.specimen import specimen_of

MARGIN_MM = 15.0


def ask_for_report(viewer: ViewerModel, cells_layer: Labels, parent: QWidget) -> Path | None:
    """Ask for a file, save the report of a layer's cells, of the plane in view, and return the file; None: cancelled.

    Raises as `save_report`.
    """
    start = f"{info_of(cells_layer).get('image') or cells_layer.name} report.html"
    name, _ = QFileDialog.getSaveFileName(parent, "Save the report", start, "Report (*.html *.pdf)")
    if not name:
        return None
    is_stack = full_resolution(cells_layer).ndim > 2
    save_report(viewer, cells_layer, Path(name), current_plane(viewer, cells_layer) if is_stack else ())
    show_info(f"Saved the report as {name}.")
    return Path(name)


def save_report(viewer: ViewerModel, cells_layer: Labels, path: Path, plane: PlaneIndex = ()) -> None:
    """Save the report of a layer's cells, of one plane of a stack.

    Raises `InputError` if the file is to be neither .html nor .pdf, `OutputError` if it cannot be written.
    """
    if path.suffix.lower() not in (".html", ".pdf"):
        raise InputError(f"{path.name!r} ends in {path.suffix!r}; a report is saved as .html or .pdf.")
    image_layer = image_layer_for(viewer, cells_layer)
    result = result_of(cells_layer, plane)
    images = {}
    if image_layer is not None:
        source = image_source(image_layer)
        pixels = source.data[plane] if plane else source.data
        result = replace(result, image_sha256=image_hash(pixels))
        images = {result.image_name: pixels} if source.rgb else {}
    page = report(specimen_of(result, name=result.image_name), journal=Journal(default_journal_folder()), images=images)
    if path.suffix.lower() == ".html":
        write_bytes(path, page.encode())
    else:
        print_pdf(page, path)


def print_pdf(page: str, path: Path) -> None:
    """Print a page as PDF on A4; `OutputError` if it cannot be written."""
    printer = QPrinter(QPrinter.PrinterMode.HighResolution)
    printer.setOutputFormat(QPrinter.OutputFormat.PdfFormat)
    printer.setOutputFileName(str(path))
    margins = QMarginsF(MARGIN_MM, MARGIN_MM, MARGIN_MM, MARGIN_MM)
    printer.setPageSize(QPageSize(QPageSize.PageSizeId.A4))
    printer.setPageMargins(margins, QPageLayout.Unit.Millimeter)
    document = QTextDocument()
    document.setHtml(page)
    before = path.stat().st_mtime_ns if path.exists() else None
    document.print_(printer) if hasattr(document, "print_") else document.print(printer)
    if not path.exists() or path.stat().st_mtime_ns == before:
        raise OutputError(f"{path} cannot be written. Choose another folder.")
