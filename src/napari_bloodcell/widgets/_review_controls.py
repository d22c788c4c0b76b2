"""The widgets of the Review dock and how they lie; what they do is in `review`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFormLayout, QGridLayout, QLabel, QPushButton, QSizePolicy, QTabWidget, QVBoxLayout, QWidget

from napari_bloodcell.widgets._count_controls import scrolled
from napari_bloodcell.widgets._edit_tools import Tool
from napari_bloodcell.widgets._review_class_list import ClassEditor
from napari_bloodcell.widgets._review_gallery_panel import GalleryPanel
from napari_bloodcell.widgets._review_opinions import OpinionsPanel
from napari_bloodcell.widgets._review_walk import WalkControls

if TYPE_CHECKING:
    from napari_bloodcell.widgets._layer_choice import LayerChoice

TOOLS: Final = (
    (Tool.CLICK, "Click to type", "A click on a cell gives it the active class; with Shift it selects."),
    (Tool.BOX, "Box to select", "Drag a box around cells: they are selected. Then press the key of their class."),
)
ACTIONS: Final = (
    ("Select none", "Select no cell"),
    ("Type selected", "Give the selected cells the active class"),
    ("Undo", "Take the last change back; on the layers Ctrl+Z"),
    ("Redo", "Do again what was undone; on the layers Ctrl+Shift+Z"),
)
IDLE: Final = "Point at a cell and press the key of its class. Keys . and , go to the next cell and back."


class ReviewControls(QWidget):
    """All that is seen of the Review dock."""

    tool_chosen = Signal(object)
    """`Tool`; `Tool.MOVE` when a tool is switched off."""
    acted = Signal(str)
    """Name of an action."""

    def __init__(self, cells: LayerChoice) -> None:
        super().__init__()
        self.classes, self.walk = ClassEditor(), WalkControls()
        self.gallery, self.opinions = GalleryPanel(), OpinionsPanel()
        self.hint = QLabel(IDLE)
        self.hint.setWordWrap(True)
        self.tools: dict[Tool, QPushButton] = {}
        self.actions_by_name: dict[str, QPushButton] = {}
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        for title, inside in (
            ("Cells", self._cells_page()),
            ("Gallery", self.gallery),
            ("Journal", self.opinions),
        ):
            self.tabs.addTab(inside, title)
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow("Cells", cells)
        inside = QWidget()
        rows = QVBoxLayout(inside)
        rows.addLayout(form)
        rows.addWidget(self.classes)
        rows.addLayout(self._grid(ACTIONS[2:]))
        rows.addWidget(self.tabs, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(scrolled(inside))
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)  # else napari leaves half empty

    def show_tool(self, tool: Tool) -> None:
        """Show which tool is on."""
        for one, button in self.tools.items():
            button.setChecked(one is tool)

    def enable(self, *, has_cells: bool, can_undo: bool, can_redo: bool) -> None:
        """Enable what can be done."""
        for name, button in self.actions_by_name.items():
            button.setEnabled({"Undo": can_undo, "Redo": can_redo}.get(name, has_cells))
        for widget in (self.classes, self.walk, self.gallery, self.opinions.merge, *self.tools.values()):
            widget.setEnabled(has_cells)

    def _cells_page(self) -> QWidget:
        page = QWidget()
        rows = QVBoxLayout(page)
        rows.setContentsMargins(0, 6, 0, 0)
        grid = QGridLayout()
        for i, (tool, text, tip) in enumerate(TOOLS):
            button = self.tools[tool] = QPushButton(text)
            button.setCheckable(True)
            button.setToolTip(tip)
            button.clicked.connect(partial(self._on_tool, tool))
            grid.addWidget(button, 0, i)
        rows.addLayout(grid)
        rows.addLayout(self._grid(ACTIONS[:2]))
        rows.addWidget(self.walk)
        rows.addWidget(self.hint)
        rows.addStretch(1)
        return page

    def _grid(self, actions: tuple[tuple[str, str], ...]) -> QGridLayout:
        grid = QGridLayout()
        for i, (name, tip) in enumerate(actions):
            button = self.actions_by_name[name] = QPushButton(name)
            button.setToolTip(tip)
            button.clicked.connect(partial(self._on_action, name))
            grid.addWidget(button, 0, i)
        return grid

    def _on_tool(self, tool: Tool, is_on: bool) -> None:
        self.tool_chosen.emit(tool if is_on else Tool.MOVE)

    def _on_action(self, name: str, _checked: bool = False) -> None:
        self.acted.emit(name)
