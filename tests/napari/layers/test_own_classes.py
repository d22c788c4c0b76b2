"""A laboratory's own classes, from the Review dock to the command line: three kinds of white cells."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from qtpy.QtWidgets import QInputDialog

from napari_bloodcell.cli.main import main
from napari_bloodcell.core.cells import LATER
from napari_bloodcell.learning.reports import TrainingReport
from napari_bloodcell.napari.docks.train.jobs import Source, default_training_set
from napari_bloodcell.napari.layers import links
from napari_bloodcell.synthetic import draw_smear
from tests.napari.docks.test_review import open_review, press
from tests.napari.docks.test_train import open_train, wait_for_the_end

if TYPE_CHECKING:
    from pathlib import Path

    from napari import Viewer
    from napari.layers import Labels
    from pytestqt.qtbot import QtBot

    from napari_bloodcell.napari.docks.review.dock import ReviewWidget

KINDS = ("neutrophil", "lymphocyte", "monocyte")


def analysed(viewer: Viewer, seed: int) -> tuple[Labels, dict[int, str]]:
    """Add a drawn smear with its cells as the program finds them, and say what each one is."""
    import napari_bloodcell as nb

    smear = draw_smear((420, 520), seed=seed, n_rbc=20, n_wbc=12, n_platelets=5, rbc_diameter_px=32, pair_share=0)
    image = viewer.add_image(smear.image, rgb=True, name=f"smear {seed}")
    nb.napari.analyse_layer(image)
    layer = viewer.layers[f"smear {seed} cells"]
    found = links.full_resolution(layer)
    kinds = smear.table["subtype"].replace({"erythrocyte": "RBC", "eosinophil": "neutrophil"})
    true = {}
    for cell in links.table_of(layer).index:
        below = smear.cells[found == cell]
        if below.any():
            true[int(cell)] = str(kinds[np.bincount(below[below > 0]).argmax()])
    return layer, true


def type_by_key(dock: ReviewWidget, layer: Labels, cell: int, name: str) -> None:
    y, x = np.argwhere(links.full_resolution(layer) == cell)[0]
    dock._viewer.cursor.position = tuple(layer.data_to_world((y, x)))
    press(layer, next(key for key, other in dock.session.classes.keys().items() if other == name))


@pytest.mark.usefixtures("one_torch_thread")
def test_own_classes_are_added_trained_used_and_known_to_the_command_line(
    viewer: Viewer, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    smears = [analysed(viewer, seed) for seed in (20, 21, 22)]
    review = open_review(viewer)
    for number, (layer, true) in enumerate(smears):
        review.cells.choose(layer)
        for name in KINDS if number == 0 else ():  # the others take them over
            monkeypatch.setattr(QInputDialog, "getText", lambda *_args, name=name, **_options: (name, True))
            review.classes.buttons["Add…"].click()
        assert set(KINDS) <= set(review.session.classes.names)
        n_typed = 3 * len(true) // 4
        for cell, name in list(true.items())[:n_typed]:
            type_by_key(review, layer, cell, name)
        assert (layer.features["type_source"] == "user").sum() == n_typed

    train = open_train(viewer)
    train.form.choose(source=Source.CORRECTIONS, start="embedded")
    train.form.settings_form.set_values({"device": "cpu", "epochs": 8})
    train.run.click()
    wait_for_the_end(train, qtbot)
    assert train.trained is not None, train.summary.text()
    report = train.trained.training.report
    typed_names = {name for _, true in smears for name in list(true.values())[: 3 * len(true) // 4]}
    assert set(report.classes) == {"WBC"} | typed_names
    assert {"neutrophil", "lymphocyte"} <= typed_names
    assert report.parts["train"].per_class["neutrophil"].recall > 0.8
    part = train.result.part.currentData()
    for row, numbers in enumerate(train.trained.figures[part].confusion):
        for column, n in enumerate(numbers):
            train.result.open_cell(row, column)
            assert train.result.pictures.count() == n

    layer, true = smears[0]
    before = layer.features.copy()
    train.cells.choose(layer)
    train.use.click()
    wait_for_the_end(train, qtbot)
    corrected = (before["type_source"] == "user").to_numpy(bool)
    kept = [features[corrected].drop(columns=list(LATER)) for features in (layer.features, before)]
    pd.testing.assert_frame_equal(*kept)
    typed = links.table_of(layer)["cell_type"]
    assert "WBC" not in set(typed)
    assert np.mean([typed[cell] == name for cell, name in true.items()]) > 0.85

    count = viewer.window.add_plugin_dock_widget("napari-bloodcell", "Count")[1]
    count._cells.choose(layer)
    qtbot.waitUntil(lambda: count.counted is not None, timeout=20_000)
    shares = {row.cell_type: row.percent for row in count.counted.rows if row.percent is not None}
    assert sum(shares.values()) == pytest.approx(100)
    framed = typed.loc[count.counted.counting.counted_ids]
    assert shares["neutrophil"] == pytest.approx(100 * (framed == "neutrophil").sum() / framed.isin(KINDS).sum())

    model = tmp_path / "mine.safetensors"
    flags = ["--from", "embedded", "--device", "cpu", "--epochs", "8", "-q"]
    assert main(["train", str(default_training_set()), "-o", str(model), *flags]) == 0
    assert TrainingReport.from_dict(json.loads((tmp_path / "mine.report.json").read_text())) == report
    picture = tmp_path / "smear.png"
    Image.fromarray(viewer.layers["smear 20"].data).save(picture)
    flags = ["--classify-model", str(model), "--device", "cpu", "-q"]
    assert main(["analyse", str(picture), "-o", str(tmp_path / "out"), *flags]) == 0
    table = pd.read_csv(next((tmp_path / "out").rglob("cells.csv")))
    assert {"neutrophil", "lymphocyte"} <= set(table["cell_type"])
    assert "neutrophil" in (tmp_path / "out" / "summary.csv").read_text()
