"""The buttons of the Edit cells dock: tools, of which one is on at most, and actions."""

from __future__ import annotations

from functools import partial
from typing import Final

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QPushButton, QWidget

from napari_bloodcell.widgets._edit_tools import Tool

TOOLS: Final = (
    (Tool.CLICK, "Add by click", "Click a cell that was missed; a click on a known cell outlines it anew."),
    (Tool.BOX, "Add by box", "Draw a box around a cell that was missed."),
    (Tool.CUT, "Cut", "Drag a line across a cell, or click on both sides of it: the cell is cut in two there."),
    (Tool.SELECT, "Select", "Click cells to select them. With every other tool: Shift-click."),
)
ACTIONS: Final = (
    ("Delete", "Delete the selected cells; key D or Delete: the cell under the mouse"),
    ("Split", "Split the selected cells where they are narrow; key S: the cell under the mouse"),
    ("Merge", "Make the selected cells one; key J"),
    ("Select none", "Select no cell"),
    ("Undo", "Take the last edit back; on the layer Ctrl+Z"),
    ("Redo", "Do again what was undone; on the layer Ctrl+Shift+Z"),
)


class EditButtons(QWidget):
    """Two columns of buttons."""

    tool_chosen = Signal(object)
    """`Tool`; `Tool.MOVE` when a tool is switched off."""
    acted = Signal(str)
    """Name of an action."""

    def __init__(self) -> None:
        super().__init__()
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        self.tools: dict[Tool, QPushButton] = {}
        self.actions_by_name: dict[str, QPushButton] = {}
        for i, (tool, text, tip) in enumerate(TOOLS):
            button = self.tools[tool] = QPushButton(text)
            button.setCheckable(True)
            button.setToolTip(tip)
            button.clicked.connect(partial(self._on_tool, tool))
            grid.addWidget(button, i // 2, i % 2)
        for i, (name, tip) in enumerate(ACTIONS, start=len(TOOLS)):
            button = self.actions_by_name[name] = QPushButton(name)
            button.setToolTip(tip)
            button.clicked.connect(partial(self._on_action, name))
            grid.addWidget(button, i // 2, i % 2)

    def show_tool(self, tool: Tool) -> None:
        """Show which tool is on."""
        for one, button in self.tools.items():
            button.setChecked(one is tool)

    def enable(self, *, has_cells: bool, can_undo: bool, can_redo: bool) -> None:
        """Enable the actions that can be done."""
        for name, button in self.actions_by_name.items():
            button.setEnabled({"Undo": can_undo, "Redo": can_redo}.get(name, has_cells))

    def _on_tool(self, tool: Tool, is_on: bool) -> None:
        self.tool_chosen.emit(tool if is_on else Tool.MOVE)

    def _on_action(self, name: str, _checked: bool = False) -> None:
        self.acted.emit(name)
