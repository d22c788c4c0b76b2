"""Scripts need no window: `nb.napari` works on a `ViewerModel` where no Qt is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import sys

class NoQt:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"qtpy", "superqt", "PyQt5", "PyQt6", "PySide2", "PySide6"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoQt())

import numpy as np
from napari.components import ViewerModel
import napari_bloodcell as nb
from tests.fakes import BrightnessClassifier, ThresholdGenerator, disc_image

models = {"generator": ThresholdGenerator(), "classifier": BrightnessClassifier()}
viewer, folder = ViewerModel(), sys.argv[1]
image = disc_image([(30, 30), (30, 70), (70, 30)], (100, 120))
smear = viewer.add_image(image, name="smear", rgb=True)
cells = nb.napari.segment_layer(smear, viewer=viewer, generator=models["generator"])
nb.napari.segment_layer(smear, viewer=viewer, generator=models["generator"], region=(0, 0, 60, 60))
nb.napari.classify_layer(cells, image_layer=smear, viewer=viewer, classifier=models["classifier"])
assert nb.napari.count_layer(cells).counts["RBC"] == 3
assert len(nb.napari.table_of(cells)) == 3
assert nb.napari.types_layer_for(viewer, cells) in viewer.layers
assert nb.napari.analyse_layer(smear, viewer=viewer, **models).counts["RBC"] == 3
assert nb.napari.result_of(nb.napari.cells_layer_for(viewer, smear)).counts["RBC"] == 3
nb.napari.save_result(nb.napari.cells_layer_for(viewer, smear), f"{folder}/result", viewer=viewer)
assert len(nb.napari.open_result(f"{folder}/result", ViewerModel())) == 3
assert nb.napari.analyse_slide(smear, f"{folder}/slide", viewer=viewer, **models).counts["RBC"] == 3
assert len(nb.napari.open_result(f"{folder}/slide", ViewerModel())) == 2
cells = nb.napari.cells_layer_for(viewer, smear)
first, second, third = nb.napari.table_of(cells).index
assert nb.napari.correct_cells(cells, {first: "WBC", second: "band"}, viewer=viewer, annotator="ann") == 2
assert nb.napari.count_layer(cells).counts == {"RBC": 1, "WBC": 1, "platelet": 0, "band": 1}
again = ViewerModel()
smear_again = again.add_image(image, name="smear", rgb=True)
nb.napari.analyse_layer(smear_again, viewer=again, **models)
cells_again = nb.napari.cells_layer_for(again, smear_again)
assert nb.napari.restore_corrections(cells_again, viewer=again) == []
assert nb.napari.count_layer(cells_again).counts["band"] == 1
nb.napari.save_result(cells_again, f"{folder}/corrected", viewer=again)
*_, opened = nb.napari.open_result(f"{folder}/corrected", ViewerModel())
stack = viewer.add_image(np.stack([image, image]), name="stack", rgb=True)
nb.napari.segment_layer(stack, viewer=viewer, generator=models["generator"], planes="all")
print("done")
"""


def test_a_script_needs_no_qt(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _SCRIPT, str(tmp_path)]
    journal = {**os.environ, "NAPARI_BLOODCELL_JOURNAL": str(tmp_path / "journal")}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False, env=journal
    )
    assert done.stdout == "done\n", done.stderr
