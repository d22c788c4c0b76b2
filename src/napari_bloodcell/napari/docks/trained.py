"""The choice of models that type cells: the program's, those that were trained, and which tell kinds apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QFileDialog, QHBoxLayout, QWidget

from napari_bloodcell.core.params import ClassifyParams
from napari_bloodcell.models.weights import SUBTYPES
from napari_bloodcell.napari.docks.base import fill, fill_column, make_button
from napari_bloodcell.napari.docks.form import NameChoice
from napari_bloodcell.napari.preferences import preferred_settings, trained_models

TITLES: Final = {"differential": "White cells", "parasites": "Parasites"}
TIPS: Final = {
    "differential": "Tells the kinds of white cells, for the differential",
    "parasites": "Looks for infected red cells (P. vivax); look at each that it finds",
}


class KindsChoice(QWidget):
    """Check boxes of the models that tell kinds apart; `value` is `ClassifyParams.subtypes`."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.boxes: dict[str, QCheckBox] = {}
        beside = QWidget()
        self._column = fill_column(beside)
        for name in SUBTYPES:
            self._offer(name)
        more = make_button("…", "Choose the file of a model of kinds that was trained", self._on_more)  # last for Tab
        more.setFixedWidth(32)
        row = fill(QHBoxLayout(self), beside, stretched=[beside])
        row.addWidget(more, alignment=Qt.AlignmentFlag.AlignBottom)
        row.setContentsMargins(0, 0, 0, 0)

    @property
    def value(self) -> tuple[str, ...]:
        """The models that are chosen, in order."""
        return tuple(name for name, box in self.boxes.items() if box.isChecked())

    @value.setter
    def value(self, names: Sequence[str]) -> None:
        for name in names:
            self._offer(name)
        for name, box in self.boxes.items():
            box.setChecked(name in names)

    def offer(self, files: Sequence[Path]) -> None:
        """Offer these files too."""
        for file in files:
            self._offer(str(file))

    def _offer(self, name: str) -> None:
        if name in self.boxes:
            return
        box = self.boxes[name] = QCheckBox(TITLES.get(name, Path(name).stem))
        box.setToolTip(TIPS.get(name, name))
        box.toggled.connect(lambda _: self.changed.emit())
        self._column.addWidget(box)

    def _on_more(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "A model of kinds", "", "Models (*.safetensors)")
        if name:
            self.value = (*self.value, name)


class TypingModels:
    """The classifier and the models of kinds that a dock offers; they follow what is trained and preferred."""

    def __init__(self, classifier: NameChoice) -> None:
        self.classifier, self.kinds = classifier, KindsChoice()
        self._preferred: dict[str, Any] = {}
        self.refresh()

    def refresh(self) -> None:
        """Offer what was trained meanwhile, and choose what is preferred now, if that has changed."""
        self.classifier.offer([str(path) for path in trained_models(of_kinds=False)])
        self.kinds.offer(trained_models(of_kinds=True))
        preferred = {"subtypes": ClassifyParams().subtypes, **preferred_settings("classify")}
        if preferred != self._preferred:
            self._preferred = preferred
            self.classifier.value = preferred.get("model", ClassifyParams().model)
            self.kinds.value = preferred["subtypes"]
