"""A grid search tries every setting, keeps the best, and goes on where it was stopped."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_bloodcell.cli.main import main
from napari_bloodcell.core.errors import TrainingError
from napari_bloodcell.core.params import TrainParams
from napari_bloodcell.learning.dataset import LabelledCutouts
from napari_bloodcell.learning.grid_search import BEST, TABLE_1, TRIES, grid_search, iter_grid_search

pytestmark = pytest.mark.usefixtures("one_torch_thread")

QUICK = TrainParams.quick(epochs=1, batch_size=16, dense_units=4, wbc_augmentation=1, device="cpu")
GRID = {"learning_rate": (1e-7, 5e-3), "dropout": (0.2, 0.5)}


def light_and_dark(n: int = 12) -> LabelledCutouts:
    cutouts = np.zeros((2 * n, 128, 128, 3), np.uint8)
    labels = np.repeat([0, 1], n)
    for i, (cutout, label) in enumerate(zip(cutouts, labels, strict=True)):
        cutout[56:72, 56:72] = (220, 60)[label] - i
    return LabelledCutouts(cutouts, labels, ("RBC", "WBC"))


def stop_after(n_tries: int, folder: Path):
    """Return a function that wants to stop once so many tries are on disk."""
    return lambda: (folder / TRIES).read_text().count("val_loss") >= n_tries


def test_the_grid_is_table_1_as_printed():
    assert {name: list(values) for name, values in TABLE_1.items()} == {
        "batch_size": [2, 4, 8],
        "epochs": [10, 20, 30],
        "dropout": [0.1, 0.2, 0.5],
        "learning_rate": [1e-5, 1e-4, 1e-3, 0.01],
    }
    assert prod(map(len, TABLE_1.values())) == 108


def test_table_2_is_one_of_the_grid_and_the_default():
    table_2 = {"batch_size": 4, "epochs": 20, "dropout": 0.2, "learning_rate": 1e-4}
    assert all(value in TABLE_1[name] for name, value in table_2.items())
    assert TrainParams().model_dump(include=set(TABLE_1)) == table_2


def test_every_setting_of_table_1_can_be_trained_with():
    for values in itertools.product(*TABLE_1.values()):
        TrainParams(**dict(zip(TABLE_1, values, strict=True)))


def test_every_combination_is_tried_and_the_best_kept():
    found = grid_search(light_and_dark(), params=QUICK, grid=GRID)
    assert [(t["learning_rate"], t["dropout"]) for t in found.tries] == [
        (1e-7, 0.2),
        (1e-7, 0.5),
        (5e-3, 0.2),
        (5e-3, 0.5),
    ]
    assert found.best.report.parts["val"].loss == min(t["val_loss"] for t in found.tries)
    assert found.is_complete


@pytest.mark.parametrize("n_before", [1, 3])
def test_a_search_that_was_stopped_goes_on_and_ends_as_one_that_was_not(tmp_path: Path, n_before: int):
    whole = grid_search(light_and_dark(), params=QUICK, grid=GRID)
    stopped = grid_search(
        light_and_dark(), params=QUICK, grid=GRID, folder=tmp_path, should_stop=stop_after(n_before, tmp_path)
    )
    assert not stopped.is_complete
    assert stopped.tries == whole.tries[:n_before]
    trained = []
    work = iter_grid_search(light_and_dark(), params=QUICK, grid=GRID, folder=tmp_path)
    while True:
        try:
            step = next(work)
        except StopIteration as end:
            resumed = end.value
            break
        if step.payload is None:
            trained.append(step.done)
    assert min(trained) == n_before
    assert resumed.is_complete
    assert resumed.tries == whole.tries
    cells = light_and_dark(3).cutouts
    np.testing.assert_array_equal(resumed.best.classifier.predict(cells), whole.best.classifier.predict(cells))
    assert resumed.best.report.parts["val"].loss == whole.best.report.parts["val"].loss


SEARCH = """
import sys
from pathlib import Path
from tests.learning.test_grid_search import GRID, QUICK, light_and_dark
from napari_bloodcell.learning.grid_search import grid_search
grid_search(light_and_dark(), params=QUICK, grid=GRID, folder=Path(sys.argv[1]))
"""


def test_a_search_that_was_killed_goes_on_and_ends_as_one_that_was_not(tmp_path: Path):
    whole = grid_search(light_and_dark(), params=QUICK, grid=GRID)
    work = subprocess.Popen([sys.executable, "-c", SEARCH, str(tmp_path)], cwd=Path(__file__).parents[2])
    try:
        until = time.monotonic() + 300
        while not ((tmp_path / TRIES).is_file() and stop_after(1, tmp_path)()):
            assert work.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
    finally:
        work.kill()
        work.wait()
    n_before = (tmp_path / TRIES).read_text().count("val_loss")
    resumed = grid_search(light_and_dark(), params=QUICK, grid=GRID, folder=tmp_path)
    assert 1 <= n_before
    assert resumed.is_complete
    assert [{k: t[k] for k in GRID} for t in resumed.tries] == [{k: t[k] for k in GRID} for t in whole.tries]
    for one, other in zip(resumed.tries, whole.tries, strict=True):
        assert one["val_loss"] == pytest.approx(other["val_loss"], rel=1e-3)


def test_python_and_the_command_line_search_alike(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("napari_bloodcell.cli.train.iter_grid_search", partial(iter_grid_search, grid=GRID))
    cells = light_and_dark()
    for i, (cutout, label) in enumerate(zip(cells.cutouts, cells.labels, strict=True)):
        file = tmp_path / "cells" / cells.classes[label] / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cutout).save(file)
    flags = ["--epochs", "1", "--batch-size", "16", "--dense-units", "4", "--wbc-augmentation", "1", "--device", "cpu"]
    out = tmp_path / "m.safetensors"
    assert main(["train", str(tmp_path / "cells"), "-o", str(out), "--grid-search", "--quick", *flags, "-q"]) == 0
    assert json.loads(out.with_suffix(".report.json").read_text())["grid_search"] == (
        grid_search(tmp_path / "cells", params=QUICK, grid=GRID).tries
    )


def test_a_search_of_other_cells_or_settings_is_not_resumed(tmp_path: Path):
    grid_search(light_and_dark(), params=QUICK, grid={"dropout": (0.2,)}, folder=tmp_path)
    for data, params in ((light_and_dark(11), QUICK), (light_and_dark(), QUICK.model_copy(update={"seed": 1}))):
        with pytest.raises(TrainingError, match="other cells or other settings"):
            grid_search(data, params=params, grid={"dropout": (0.2,)}, folder=tmp_path)


def test_a_search_whose_best_classifier_is_gone_is_refused(tmp_path: Path):
    grid_search(light_and_dark(), params=QUICK, grid={"dropout": (0.2,)}, folder=tmp_path)
    (tmp_path / BEST).unlink()
    with pytest.raises(TrainingError, match="cannot be resumed"):
        grid_search(light_and_dark(), params=QUICK, grid={"dropout": (0.2,)}, folder=tmp_path)


@pytest.mark.parametrize("grid", [{"colour": (1,)}, {"dropout": ()}, {}])
def test_a_grid_of_unknown_or_no_settings_is_refused(grid):
    with pytest.raises(TrainingError, match="grid"):
        next(iter_grid_search(light_and_dark(), params=QUICK, grid=grid))


def test_a_search_that_is_stopped_at_once_gives_what_it_has():
    found = grid_search(light_and_dark(), params=QUICK, grid=GRID, should_stop=lambda: True)
    assert found.tries == []
    assert found.best.report.is_stopped


def test_the_command_line_refuses_a_search_from_given_weights(tmp_path: Path, capsys):
    (tmp_path / "cells").mkdir()
    flags = ["-o", str(tmp_path / "m.safetensors"), "--grid-search", "--from", "embedded"]
    assert main(["train", str(tmp_path / "cells"), *flags]) == 2
    assert "from scratch" in capsys.readouterr().err
