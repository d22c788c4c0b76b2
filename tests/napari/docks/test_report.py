from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog

from tests.napari.docks.test_review import open_review
from tests.napari.smears import add_smear

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from napari import Viewer
    from pytestqt.qtbot import QtBot

    from napari_bloodcell.napari.docks.count.dock import CountWidget


def save_as(viewer: Viewer, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Press the button of the Count dock, and choose a file."""
    dock: CountWidget = viewer.window.add_plugin_dock_widget("napari-bloodcell", "Count")[1]
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_args, **_options: (str(path), ""))
    qtbot.mouseClick(dock._export.report, Qt.MouseButton.LeftButton)


def test_the_button_saves_a_page_with_counts_pictures_and_who_corrected(
    viewer: Viewer, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add_smear(viewer)
    review = open_review(viewer)
    review.session.type_cells([3], "WBC", annotator="Ada")
    review.session.flush()
    save_as(viewer, qtbot, monkeypatch, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.search(r"<td>RBC</td><td class=\"n\">3</td>", page)
    assert re.search(r"<td>WBC</td><td class=\"n\">2</td>", page)
    assert "reviewed by Ada" in page
    assert page.count("image/jpeg") == 6


def test_the_button_prints_a_pdf(viewer: Viewer, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    add_smear(viewer)
    save_as(viewer, qtbot, monkeypatch, tmp_path / "report.pdf")
    content = (tmp_path / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert re.search(rb"/MediaBox \[0 0 59[45][\d.]* 84[12]", content)  # A4


def test_what_cannot_be_saved_is_a_notification(
    viewer: Viewer, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, notifications: list[str]
) -> None:
    save_as(viewer, qtbot, monkeypatch, tmp_path / "report.html")
    assert "Nothing is counted yet" in notifications[-1]
    add_smear(viewer)
    save_as(viewer, qtbot, monkeypatch, tmp_path / "report.doc")
    assert "saved as .html or .pdf" in notifications[-1]
    save_as(viewer, qtbot, monkeypatch, tmp_path / "nowhere" / "report.pdf")
    assert "cannot be written" in notifications[-1]
