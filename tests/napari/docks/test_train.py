from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from qtpy.QtCore import Qt

from napari_bloodcell.core.errors import InputError, OutputError, TrainingError
from napari_bloodcell.core.params import TrainParams
from napari_bloodcell.core.progress import drain
from napari_bloodcell.learning.kinds import kind_set
from napari_bloodcell.learning.training_set import TrainingSet
from napari_bloodcell.models.cnn.classifier import CnnClassifier
from napari_bloodcell.models.load import load_classifier
from napari_bloodcell.napari.docks.train.dock import SCRATCH, Preset
from napari_bloodcell.napari.docks.train.jobs import Source, TrainTask, default_training_set, iter_training
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.menus import open_dock
from napari_bloodcell.napari.session.opening import cells_session
from tests.napari.smears import add_smear

if TYPE_CHECKING:
    from pathlib import Path

    from napari import Viewer
    from pytestqt.qtbot import QtBot

    from napari_bloodcell.napari.docks.train.dock import TrainWidget

LONG = 200_000


def open_train(viewer: Viewer) -> TrainWidget:
    widget: TrainWidget = viewer.window.add_plugin_dock_widget("napari-bloodcell", "Train")[1]
    return widget


def write_discs(folder: Path, n: int = 24) -> Path:
    """Cutouts of two classes that are easy to tell apart, in the paper's layout."""
    rng = np.random.default_rng(0)
    yy, xx = np.mgrid[:128, :128]
    for part, number in (("train", n), ("val", 8), ("test", 8)):
        for name, value in (("RBC", 190), ("WBC", 60)):
            (folder / part / name).mkdir(parents=True)
            for i in range(number):
                disc = (yy - 64) ** 2 + (xx - 64) ** 2 <= rng.uniform(18, 26) ** 2
                picture = np.zeros((128, 128, 3), np.uint8)
                picture[disc] = np.clip(rng.normal(value, 12, (int(disc.sum()), 3)), 1, 255)
                Image.fromarray(picture).save(folder / part / name / f"{i}.png")
    return folder


def ready(dock: TrainWidget, folder: Path, *, preset: Preset = Preset.QUICK, **settings: Any) -> None:
    dock.form.choose(source=Source.PAPER_LAYOUT, folder=folder, start=None, preset=preset)
    dock.form.settings_form.set_values(
        {"epochs": 3, "device": "cpu", "wbc_augmentation": 1, "dense_units": 16} | settings
    )


def wait_for_the_end(dock: TrainWidget, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: not dock.is_running, timeout=LONG)


def test_curves_grow_and_the_result_can_be_looked_into_and_saved(viewer: Viewer, qtbot: QtBot, tmp_path: Path) -> None:
    dock = open_train(viewer)
    ready(dock, write_discs(tmp_path / "cutouts"))
    drawn: list[int] = []
    dock.panel.work.progressed.connect(lambda _: drawn.append(len(dock.plot.epochs)))
    dock.run.click()
    assert not dock.run.isEnabled()
    wait_for_the_end(dock, qtbot)
    assert {1, 2, 3} <= set(drawn)
    assert dock.trained is not None
    report = dock.trained.training.report
    assert [e.number for e in dock.plot.epochs] == [1, 2, 3]
    result = dock.result
    assert result.part.currentText() == "Test part"
    assert result.confusion.item(0, 0).text() == str(report.parts["test"].confusion[0][0])
    result.confusion.setCurrentCell(0, 0)
    qtbot.keyClick(result.confusion, Qt.Key.Key_Return)
    assert result.pictures.count() == report.parts["test"].confusion[0][0]
    assert "of 16 cells typed right" in result.summary.text()
    low, high = report.parts["test"].per_class["RBC"].f1_interval
    assert result.by_class.item(0, 2).text().endswith(f"{100 * low:.0f}–{100 * high:.0f}")
    path = tmp_path / "mine.safetensors"
    dock.save_as(path)
    assert list(CnnClassifier.load(path, device="cpu").classes) == ["RBC", "WBC"]
    with pytest.raises(OutputError, match="safetensors"):
        dock.save_as(tmp_path / "mine.pt")
    typing = [open_dock(viewer, name) for name in ("Classify", "Analyse")]  # before and after it is preferred
    offered = [str(name) for name in typing[0].form.field("model").choices]
    assert {str(path), str(dock.trained.kept)} < set(offered)
    assert typing[0].form.settings().model == typing[1].recipe().classify.model == "embedded"
    dock.prefer.click()
    for one in typing:
        one.models.refresh()
    assert typing[0].form.settings().model == typing[1].recipe().classify.model == str(path)


def test_cancel_in_the_middle_keeps_the_best_so_far(viewer: Viewer, qtbot: QtBot, tmp_path: Path) -> None:
    dock = open_train(viewer)
    ready(dock, write_discs(tmp_path / "cutouts"), epochs=500, patience=500)
    dock.run.click()
    qtbot.waitUntil(lambda: len(dock.plot.epochs) >= 2, timeout=LONG)
    dock.panel._cancel.click()
    wait_for_the_end(dock, qtbot)
    assert dock.trained is not None
    history = dock.trained.training.report.history
    assert 2 <= len(history) < 500
    assert dock.trained.training.report.best_epoch == min(history, key=lambda e: e.val_loss).number
    assert "best so far" in dock.summary.text()
    assert dock.use.isEnabled()


def test_a_grid_search_fills_its_table_and_cancel_keeps_the_best(
    viewer: Viewer, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_bloodcell.napari.docks.train import jobs

    small = {"learning_rate": (1e-3, 1e-4), "dropout": (0.2, 0.5), "dense_units": (8, 16)}
    plain = jobs.iter_grid_search

    def search(*args: Any, **options: Any) -> Any:
        return plain(*args, **options, grid=small)

    monkeypatch.setattr(jobs, "iter_grid_search", search)
    dock = open_train(viewer)
    ready(dock, write_discs(tmp_path / "cutouts"), preset=Preset.GRID, epochs=1)
    dock.run.click()
    assert dock.tabs.currentWidget() is dock.grid
    qtbot.waitUntil(lambda: dock.grid.rowCount() >= 2, timeout=LONG)
    dock.panel._cancel.click()
    wait_for_the_end(dock, qtbot)
    assert dock.trained is not None
    assert dock.trained.grid is not None
    assert 2 <= len(dock.trained.grid.tries) < 8
    losses = [one["val_loss"] for one in dock.grid.tries]
    bold = [row for row in range(dock.grid.rowCount()) if dock.grid.item(row, 0).font().bold()]
    assert len(bold) == 1
    column = list(dock.grid.tries[0]).index("val_loss")
    assert dock.grid.item(bold[0], column).text() == f"{min(losses):.3f}"


def test_corrections_train_the_embedded_model_which_types_the_image_but_not_the_corrected_cells(
    viewer: Viewer, qtbot: QtBot
) -> None:
    cells = [add_smear(viewer, name=f"smear {i}", brightness=20 * i) for i in range(3)]
    for layer in cells:
        session = cells_session(viewer, layer)
        session.type_cells([1, 4, 6] if layer is cells[0] else [1, 3, 4, 6], "WBC")
        session.type_cells([2, 5], "RBC")
    dock = open_train(viewer)
    dock.form.choose(source=Source.CORRECTIONS, start="embedded")
    dock.form.show_examples()
    assert "17 corrected cells" in dock.form.note.text()
    cells_session(viewer, cells[0]).type_cells([1], "unidentified")
    dock.form.show_examples()
    assert "16 corrected cells" in dock.form.note.text()
    cells_session(viewer, cells[0]).undo()
    dock.form.settings_form.set_values({"epochs": 1, "device": "cpu", "wbc_augmentation": 1})
    dock.run.click()
    wait_for_the_end(dock, qtbot)
    assert dock.trained is not None, dock.summary.text()
    assert str(dock.trained.kept) in dock.summary.text()
    kept = load_classifier(dock.trained.kept, "cpu")
    assert kept.to_bytes() == dock.trained.training.classifier.to_bytes()
    known = TrainingSet(default_training_set())
    assert len(known) == 17
    assert set(dock.trained.parts) <= set(dock.trained.training.report.before)
    assert "the model before" in dock.result.summary.text()
    dock.cells.choose(cells[0])
    dock.use.click()
    wait_for_the_end(dock, qtbot)
    table = links.table_of(cells[0])
    assert table.loc[[1, 2, 4, 5, 6], "type_source"].eq("user").all()
    assert table.loc[[1, 2], "cell_type"].tolist() == ["WBC", "RBC"]
    assert table.loc[3, "type_source"] == "model"
    assert table.loc[3, "cell_type"] in ("RBC", "WBC")
    assert links.info_of(cells[0])["models"]["classify"]["sha256"] == dock.trained.training.classifier.sha256


def test_kinds_are_trained_from_corrections_and_told_in_the_image(viewer: Viewer, qtbot: QtBot) -> None:
    cells = [add_smear(viewer, name=f"smear {i}", brightness=20 * i) for i in range(2)]
    for layer in cells:
        session = cells_session(viewer, layer)
        if layer is cells[0]:  # the other image takes it over
            session.add_kind("WBC", "giant")
        session.type_cells([1, 2], "WBC: neutrophil")
        session.type_cells([4, 5], "WBC: giant")
        session.type_cells([3], "WBC")  # of no kind: nothing to learn from
    dock = open_train(viewer)
    dock.form.choose(of="WBC", source=Source.CORRECTIONS)
    assert "8 corrected cells" in dock.form.note.text()
    assert dock.form.start == "differential"
    assert not dock.form.settings_form.field("learning_rate").enabled
    dock.form.settings_form.set_values({"epochs": 1, "device": "cpu"})
    dock.run.click()
    wait_for_the_end(dock, qtbot)
    assert dock.trained is not None, dock.summary.text()
    assert dock.trained.training.classifier.classes[-1] == "giant"
    assert dock.result.confusion.rowCount() == 8
    assert len(kind_set(default_training_set(), "WBC")) == 8
    dock.cells.choose(cells[0])
    dock.use.click()
    wait_for_the_end(dock, qtbot)
    table = links.table_of(cells[0])
    assert table.loc[[1, 4], "subtype"].tolist() == ["neutrophil", "giant"]
    assert table.loc[3, "subtype_source"] == "model"
    assert table.loc[3, "subtype"] in dock.trained.training.classifier.classes
    dock.form.choose(of="")
    assert dock.form.start == "embedded"
    assert dock.form.settings_form.field("learning_rate").enabled


def test_what_is_missing_is_said(viewer: Viewer, qtbot: QtBot, notifications: list[str], tmp_path: Path) -> None:
    dock = open_train(viewer)
    dock.form.choose(source=Source.CORRECTIONS)
    dock.run.click()
    wait_for_the_end(dock, qtbot)
    assert "Nobody corrected a cell" in notifications[-1]
    assert dock.summary.text() == "Nothing was trained."
    dock.form.choose(source=Source.TRAINING_SET, folder=tmp_path)
    dock.run.click()
    wait_for_the_end(dock, qtbot)
    assert "is not a training set" in notifications[-1]
    dock.form.choose(folder="")
    dock.run.click()
    assert "no folder of examples" in notifications[-1]
    with pytest.raises(InputError, match="no model yet"):
        dock.use_it()


def test_settings_go_with_the_start(viewer: Viewer) -> None:
    form = open_train(viewer).form
    assert form.start == "embedded"
    assert form.params() == TrainParams()
    form.choose(start=SCRATCH)
    assert form.start is None
    form.choose(preset=Preset.QUICK)
    assert form.params() == TrainParams.quick()
    form.choose(preset=Preset.GRID, start="embedded")
    assert form.start is None


def test_the_dock_can_be_closed_while_it_trains(viewer: Viewer, qtbot: QtBot, tmp_path: Path) -> None:
    dock = open_train(viewer)
    ready(dock, write_discs(tmp_path / "cutouts"), epochs=500)
    dock.run.click()
    qtbot.waitUntil(lambda: len(dock.plot.epochs) >= 1, timeout=LONG)
    viewer.window.remove_dock_widget(dock)
    assert not dock.is_running


def test_a_grid_search_stopped_at_its_first_settings_keeps_the_model_before(tmp_path: Path) -> None:
    kept = default_training_set().parent / "last trained.safetensors"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(b"the last good model")
    folder = write_discs(tmp_path / "discs", 8)
    params = TrainParams(epochs=3, device="cpu", wbc_augmentation=1)
    task = TrainTask(Source.PAPER_LAYOUT, folder, (), "Ada", params, None, is_grid_search=True)
    with pytest.raises(TrainingError, match="no model was made"):
        drain(iter_training(task, lambda: True))
    assert kept.read_bytes() == b"the last good model"
