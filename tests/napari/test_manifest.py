from __future__ import annotations

import hashlib
import importlib
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from npe2 import PluginManifest
from PIL import Image
from qtpy.QtCore import QTimer

from napari_bloodcell.core.cells import TYPE_COLOURS
from napari_bloodcell.core.errors import DownloadError
from napari_bloodcell.core.params import OFFICIAL_SAMS, ClassifyParams, SegmentParams, Shown
from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.models import download, weights
from napari_bloodcell.napari.preferences import colour_of
from tests.napari.conftest import MANIFEST

if TYPE_CHECKING:
    from napari import Viewer

MANIFEST_READ = PluginManifest.from_file(MANIFEST)


@pytest.mark.parametrize("command", MANIFEST_READ.contributions.commands, ids=lambda c: c.id)
def test_every_command_is_there(command: Any) -> None:
    module, _, name = command.python_name.partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_the_link_at_the_top_of_the_repository_is_the_manifest() -> None:
    link = Path(__file__).parents[2] / "napari.yaml"
    assert link.resolve() == MANIFEST.resolve()


def test_the_menus_are_ones_that_napari_shows() -> None:
    from napari._app_model.constants import MenuId

    for menu in MANIFEST_READ.contributions.menus:
        assert menu in {str(one) for one in MenuId.contributables()}


def test_the_default_colours_are_those_of_the_program() -> None:
    colours = MANIFEST_READ.contributions.configurations["colours"].properties
    assert {name: colours[f"{name.lower()}_colour"].default for name in TYPE_COLOURS} == TYPE_COLOURS


def test_the_models_and_devices_of_the_preferences_are_those_of_the_forms() -> None:
    models = MANIFEST_READ.contributions.configurations["models"].properties
    defaults = models["segment_model"].default, models["classify_model"].default
    assert defaults == (SegmentParams().model, ClassifyParams().model)
    shown = next(one for one in SegmentParams.model_fields["device"].metadata if isinstance(one, Shown))
    assert tuple(models["device"].enum) == shown.names


def test_the_official_models_of_the_forms_are_those_that_are_downloaded() -> None:
    assert tuple(weights.OFFICIAL) == OFFICIAL_SAMS


def test_a_colour_of_the_preferences_is_shown_and_nonsense_is_not(viewer: Viewer) -> None:
    from napari.settings import get_plugin_settings

    colours = get_plugin_settings("napari-bloodcell").colours
    colours.wbc_colour = "#123456"
    assert colour_of("WBC", ["RBC", "WBC"]) == "#123456"
    colours.wbc_colour = "greenish"
    assert colour_of("WBC", ["RBC", "WBC"]) == TYPE_COLOURS["WBC"]


@pytest.mark.parametrize(
    "name", ["Workbench", "Segment", "Classify", "Count", "Analyse", "Edit cells", "Review", "Train", "Specimen"]
)
def test_each_dock_opens_by_its_name(viewer: Viewer, name: str) -> None:
    dock, widget = viewer.window.add_plugin_dock_widget("napari-bloodcell", name)
    assert dock.widget() is widget


@pytest.mark.parametrize("key", ["smear", "smear_with_truth"])
def test_samples_open(viewer: Viewer, key: str) -> None:
    viewer.open_sample("napari-bloodcell", key)
    assert viewer.layers["smear"].data.shape == (1600, 2304, 3)
    if key == "smear_with_truth":
        assert np.unique(viewer.layers["true types"].data).tolist() == [0, 1, 2, 3]


def test_the_window_lives_while_the_real_field_is_downloaded(
    viewer: Viewer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "field.png"
    Image.fromarray(np.full((48, 64, 3), 200, np.uint8)).save(picture)

    def receive(_url: str, part: Path, **_options: Any) -> Any:
        for i in range(20):
            time.sleep(0.02)
            yield Progress(i, 20, "downloading")
        part.write_bytes(picture.read_bytes())

    monkeypatch.setattr(weights, "iter_receive", receive)
    digest = hashlib.sha256(picture.read_bytes()).hexdigest()
    monkeypatch.setattr(weights, "SAMPLE", replace(weights.SAMPLE, sha256=digest))
    beats: list[float] = []
    heart = QTimer()
    heart.timeout.connect(lambda: beats.append(time.monotonic()))
    heart.start(5)
    viewer.open_sample("napari-bloodcell", "bccd")
    heart.stop()
    assert viewer.layers["BCCD field"].data.shape == (48, 64, 3)
    assert len(beats) > 10


def test_without_network_the_real_field_says_so(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    def receive(*_args: Any, **_options: Any) -> Any:
        raise download.TransferError("there is no connection")
        yield

    monkeypatch.setattr(weights, "iter_receive", receive)
    with pytest.raises(DownloadError, match="no connection"):
        viewer.open_sample("napari-bloodcell", "bccd")


def test_opening_a_dock_does_not_load_torch() -> None:
    from tests.test_package import loaded_after

    docks = ("analyse", "segment", "classify", "count.dock", "edit.dock", "review.dock", "train.dock", "workbench")
    code = "\n".join(f"import napari_bloodcell.napari.docks.{name}" for name in docks)
    assert "torch" not in loaded_after(code)
