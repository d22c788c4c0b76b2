"""Names of classes, cells and files, shown literally even if they look like HTML to Qt."""

from __future__ import annotations

import html

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel


class PlainLabel(QLabel):
    """A label that renders no HTML."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.setTextFormat(Qt.TextFormat.PlainText)


def plain(text: str) -> str:
    """Escape a text that looks like HTML, for tooltips and questions, where Qt has no plain format."""
    return f"<qt>{html.escape(text)}</qt>".replace("\n", "<br>") if "<" in text else text
