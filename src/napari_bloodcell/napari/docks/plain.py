"""Names of classes, cells and files are shown as they are, though they look like HTML to Qt."""

from __future__ import annotations

import html

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel


class PlainLabel(QLabel):
    """A label that draws no HTML."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.setTextFormat(Qt.TextFormat.PlainText)


def plain(text: str) -> str:
    """Return a text for a tip or a question, where Qt offers no plain format: escaped where it could be HTML."""
    return f"<qt>{html.escape(text)}</qt>".replace("\n", "<br>") if "<" in text else text
