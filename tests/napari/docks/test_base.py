"""Names are shown as they are, whatever Qt takes them for."""

from __future__ import annotations

import html

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QTableWidget, QWidget

from napari_bloodcell.core.cells import RBC
from napari_bloodcell.napari.docks.base import PlainLabel, plain
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import links
from tests.napari.smears import add_smear

HOSTILE = "<h1>band</h1><img src='file:///etc/passwd'>"


def test_a_label_draws_no_html(qtbot):
    plain_label, label = PlainLabel(HOSTILE), QLabel(HOSTILE)
    qtbot.addWidget(plain_label)
    qtbot.addWidget(label)
    assert plain_label.textFormat() == Qt.TextFormat.PlainText
    assert plain_label.sizeHint().width() > label.sizeHint().width()


def test_a_tip_draws_no_html_and_an_ordinary_one_stays_as_it_is():
    assert plain(RBC) == RBC
    assert plain("a < b\nc") == "<qt>a &lt; b<br>c</qt>"
    assert "<h1>" not in plain(HOSTILE)


@pytest.mark.parametrize("dock", ["Review", "Count", "Edit cells"])
def test_no_dock_draws_the_name_of_a_class_as_html(viewer, qtbot, dock):
    layer = add_smear(viewer)
    table = links.table_of(layer)
    table.loc[[1, 2], "cell_type"] = HOSTILE  # as from a result of another program: no dock takes such a name
    layers.set_table(layer, table)
    widget = viewer.window.add_plugin_dock_widget("napari-bloodcell", dock)[1]
    qtbot.wait(300)
    texts = [label.text() for label in widget.findChildren(QLabel) if label.textFormat() != Qt.TextFormat.PlainText]
    tips = [child.toolTip() for child in widget.findChildren(QWidget)]
    for table in widget.findChildren(QTableWidget):
        cells = [table.item(row, column) for row in range(table.rowCount()) for column in range(table.columnCount())]
        tips += [cell.toolTip() for cell in cells if cell is not None]
    assert not [text for text in (*texts, *tips) if HOSTILE in text]
    if dock != "Edit cells":
        assert any(html.escape(HOSTILE) in tip for tip in tips)
