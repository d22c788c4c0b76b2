"""The Review dock: types are corrected by key, click, box or gallery, with undo, and every correction is kept."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QVBoxLayout

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.napari.docks.base import RestingWidget
from napari_bloodcell.napari.docks.layer_choice import LayerChoice
from napari_bloodcell.napari.docks.mouse import Tool
from napari_bloodcell.napari.docks.review.hands import ReviewHands
from napari_bloodcell.napari.docks.review.journal_panel import JournalDesk
from napari_bloodcell.napari.docks.review.panels import IDLE, TOOLS, ReviewControls
from napari_bloodcell.napari.docks.review.session import ReviewSession, review_session
from napari_bloodcell.napari.docks.review.walk import Walk
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import selection
from napari_bloodcell.napari.notify import notify_errors, notifying

if TYPE_CHECKING:
    from collections.abc import Sequence

    import napari.viewer
    from napari.layers import Labels
    from napari.utils.events import Event

SOON_MS: Final = 150
"""After a change from elsewhere the dock looks again at the cells when this long nothing more came."""


class ReviewWidget(RestingWidget):
    """Reviews the types of a layer's cells; while it is hidden, it rests."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)  # not the proxy that plugins are given
        self._session: ReviewSession | None = None
        self._awaited: Labels | None = None
        self.hands = ReviewHands(self._viewer)
        self.cells = LayerChoice(self._viewer, layers.is_cells, none="No cells yet", follows_active=True)
        self.cells.setToolTip("The layer whose cells are reviewed")
        self.controls = ReviewControls(self.cells)
        self._walk = Walk(self.controls.walk)
        self.desk = JournalDesk(self.controls.opinions, self._viewer)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.controls)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(SOON_MS)
        self._soon.timeout.connect(self._on_new_table)
        self._connect()
        self.wake()

    def _connect(self) -> None:
        ui = self.controls
        self.cells.chosen.connect(self._on_layer)
        hands = self.hands.events
        hands.clicked.connect(self._on_clicked)
        hands.pressed.connect(self._on_pressed)
        hands.acted.connect(self._on_acted)
        hands.selected.connect(self._on_selected)
        self.desk.restored.connect(self._look_again)
        for signal, method in (
            (ui.tool_chosen, self.use_tool),
            (ui.acted, self.act),
            (ui.classes.edited, self.edit_classes),
            (ui.classes.wanted, self.type_selected),
            (ui.walk.stepped, self.step),
            (ui.walk.changed, self._walk.forget),
            (ui.gallery.move_wanted, self.type_cells),
            (ui.gallery.key_pressed, self._on_gallery_key),
            (ui.gallery.cell_chosen, self.go_to),
            (ui.opinions.decided, self._on_decided),
        ):
            signal.connect(notifying(method))

    @property
    def session(self) -> ReviewSession:
        """The review of the chosen layer.

        Raises
        ------
        InputError
            If no layer of cells is chosen.
        """
        if self._session is None:
            raise InputError("There are no cells to review. Segment and classify an image first.")
        return self._session

    def act(self, name: str) -> None:
        """Do what a button says, or a key stands for."""
        match name.lower():
            case "undo":
                self.session.undo()
            case "redo":
                self.session.redo()
            case "next":
                self.step(1)
            case "back":
                self.step(-1)
            case "select none":
                selection.select_cells(self._viewer, self.session.layer, [])
            case "type selected":
                self.type_selected(self.controls.classes.table.active)

    def edit_classes(self, verb: str, arguments: tuple[str, ...]) -> None:
        """Add, rename, recolour or delete a class: `verb` names the method of the session."""
        getattr(self.session, verb)(*arguments)

    def use_tool(self, tool: Tool) -> None:
        """Take a tool; `Tool.MOVE` leaves the mouse to napari."""
        self.controls.show_tool(tool)
        self.hands.tools.use(tool, self.cells.layer)
        self.controls.hint.setText(next((tip for one, _, tip in TOOLS if one is tool), IDLE))

    def type_cells(self, ids: Sequence[int], name: str) -> None:
        """Give cells a class."""
        self.session.type_cells(ids, name)

    def type_selected(self, name: str) -> None:
        """Give the selected cells a class."""
        selected = selection.selected_cells(self._viewer, self.session.layer)
        if not len(selected):
            raise InputError("No cell is selected. Point at one and press a key, or draw a box with 'Box to select'.")
        self.session.type_cells(selected, name)

    def press(self, name: str) -> None:
        """Do what the key of a class does: type the cell under the mouse, or all that are selected."""
        selected = selection.selected_cells(self._viewer, self.session.layer)
        if self.hands.hovered and self.hands.hovered not in selected:
            self.session.type_cells([self.hands.hovered], name)
        else:
            self.type_selected(name)

    def step(self, by: int) -> None:
        """Go to the next cell (1) or the one before (−1) in the chosen order."""
        self._walk.step(self.session, by)
        self.hands.hovered = 0  # the mouse lies on another cell now; it counts again when it is moved

    def go_to(self, cell: int) -> None:
        """Centre the view on a cell and outline it."""
        self._walk.go_to(self.session, cell)
        self.hands.hovered = 0

    def _on_layer(self) -> None:
        """Turn to another layer."""
        self._leave()
        layer = self.cells.layer
        if layer is not None and not self.is_resting:
            if "cell_type" in layer.features.columns:
                notify_errors(partial(self._enter, layer))
            else:
                self._awaited = layer
                layer.events.features.connect(self._on_table)
        self._look_again()

    def _on_table(self, _event: Event) -> None:
        """Begin: the layer has its table now."""
        if self._awaited is not None and "cell_type" in self._awaited.features.columns:
            self._on_layer()

    def _enter(self, layer: Any) -> None:
        session = self._session = review_session(self._viewer, layer)
        for name in ("typed", "undone", "redone"):
            getattr(session.events, name).connect(self._on_step)
        session.events.classes.connect(self._on_classes)
        layer.events.features.connect(self._on_features)
        image = layers.image_layer_for(self._viewer, layer)
        self.controls.gallery.use(layer, image)
        self.desk.enter(session, image)
        self.hands.take(self.session.layer, self.session.classes.keys())
        self._viewer.layers.selection.active = layer

    def _leave(self) -> None:
        session, self._session = self._session, None
        awaited, self._awaited = self._awaited, None
        if awaited is not None:
            awaited.events.features.disconnect(self._on_table)
        self.hands.take(None, {})
        self._soon.stop()
        self.desk.leave()
        if session is None:
            return
        for name in ("typed", "undone", "redone"):
            getattr(session.events, name).disconnect(self._on_step)
        session.events.classes.disconnect(self._on_classes)
        session.layer.events.features.disconnect(self._on_features)
        self.controls.gallery.use(None, None)

    def _on_step(self, event: Event) -> None:
        verb = {"undone": "Undone: ", "redone": "Again: "}.get(event.type, "")
        text = verb + event.value.what
        self.controls.hint.setText(text[:1].upper() + text[1:])
        self.controls.gallery.follow(event.value)
        self._show_state()

    def _on_classes(self, _event: Event) -> None:
        self._walk.forget()
        self.hands.take(self.session.layer, self.session.classes.keys())
        self._look_again()

    def _on_features(self, _event: Event) -> None:
        """Look again at a table that something else wrote."""
        if self._session is not None and not self._session.is_changing:
            self._soon.start()

    def _on_new_table(self) -> None:
        self._look_again()
        self.desk.look_up()

    def _look_again(self) -> None:
        """Show classes, numbers and gallery as they are."""
        session = self._session
        if session is not None:
            classes = session.classes
            self.controls.classes.show_classes(classes, classes.keys(), session.numbers())
            self.controls.walk.show_classes(classes.names)
            self.controls.gallery.show_classes(classes.names)
            self._walk.forget()
        self._show_state()

    def _show_state(self) -> None:
        session = self._session
        self.controls.enable(
            has_cells=session is not None,
            can_undo=session is not None and bool(session.done),
            can_redo=session is not None and bool(session.undone),
        )
        if session is not None:
            self.controls.classes.table.show_numbers(session.numbers())

    def _on_gallery_key(self, key: str) -> None:
        name, marked = self.session.classes.keys().get(key), self.controls.gallery.gallery.marked_cells()
        if name is not None and marked:
            self.type_cells(marked, name)

    def _on_decided(self, cell: int, name: str) -> None:
        self.type_cells([cell], name)

    def _on_clicked(self, event: Event) -> None:
        notify_errors(lambda: self.type_cells([event.value], self.controls.classes.table.active))

    def _on_pressed(self, event: Event) -> None:
        notify_errors(lambda: self.press(event.value))

    def _on_acted(self, event: Event) -> None:
        notify_errors(lambda: self.act(event.value))

    def _on_selected(self, event: Event) -> None:
        self.controls.hint.setText(f"{event.value:,} cells selected: press the key of their class.")

    def on_wake(self) -> None:
        """Listen to mouse and keys."""
        self.hands.attach()
        self._on_layer()

    def on_rest(self) -> None:
        """Leave mouse and keys alone."""
        self.use_tool(Tool.MOVE)
        self.hands.detach()
        self._leave()
