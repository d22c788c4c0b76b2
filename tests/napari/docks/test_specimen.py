"""The Specimen dock: open images are analysed one after another, and pooled."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image as Picture
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog

from napari_bloodcell.napari.session.opening import cells_session
from tests.fakes import BrightnessClassifier, ThresholdGenerator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari import Viewer
    from numpy.typing import NDArray
    from pytestqt.qtbot import QtBot


@pytest.fixture
def folder(tmp_path: Path, field: NDArray[np.uint8]) -> Path:
    """Two pictures: ten cells, two of them white, and the upper half of it."""
    (tmp_path / "fields").mkdir()
    Picture.fromarray(field).save(tmp_path / "fields" / "a.png")
    Picture.fromarray(np.where(np.arange(256)[:, None, None] < 90, field, 230).astype(np.uint8)).save(
        tmp_path / "fields" / "b.png"
    )
    return tmp_path / "fields"


def texts(dock: Any) -> dict[str, list[str]]:
    """Return the rows of the table by their names."""
    table = dock.table
    rows = [[table.item(i, j).text() for j in range(table.columnCount())] for i in range(table.rowCount())]
    return {row[0]: row[1:] for row in rows}


def test_a_folder_is_analysed_pooled_and_saved(
    make_napari_viewer: Callable[..., Viewer],
    qtbot: QtBot,
    nothing_left: None,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    viewer = make_napari_viewer(show=True)
    dock: Any = viewer.window.add_plugin_dock_widget("napari-bloodcell", "Specimen")[1]
    dock.generator, dock.classifier = ThresholdGenerator(), BrightnessClassifier()
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_args: str(folder))
    qtbot.mouseClick(dock.add, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: dock.table.rowCount() == 2, timeout=20_000)
    assert texts(dock)["a"][0] == "not analysed yet"
    qtbot.mouseClick(dock.analyse, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not dock.is_running and "2 of 2 fields" in dock.told.text(), timeout=60_000)
    shown = texts(dock)
    assert shown["a"][:2] == ["8", "2"]
    total = [int(a) + int(b) for a, b in zip(shown["a"], shown["b"], strict=True)]
    assert shown["Sum"] == [str(n) for n in total]
    assert shown["Mean ± SD"][0].startswith(f"{total[0] / 2:.1f} ± ")
    assert "2 of 100 white cells: 98 are missing." in dock.told.text()
    cells_session(viewer, viewer.layers["a cells"]).type_cells([1], "platelet")  # type: ignore[arg-type]
    qtbot.waitUntil(lambda: texts(dock)["Sum"][2] == "1", timeout=20_000)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_args: (str(tmp_path / "S 17"), ""))
    qtbot.mouseClick(dock.save, Qt.MouseButton.LeftButton)
    content = json.loads((tmp_path / "S 17" / "specimen.json").read_text(encoding="utf-8"))
    assert content["counts"]["platelet"] == 1
    page = (tmp_path / "S 17" / "report.html").read_text(encoding="utf-8")
    assert "image/jpeg" in page
    assert "threshold" in page  # the model
