from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes import BrightnessClassifier, ThresholdGenerator

if TYPE_CHECKING:
    from pytestqt.qtbot import QtBot

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
def _quick_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """What models find is shown elsewhere."""
    monkeypatch.setattr("napari_bloodcell.models.load.load_generator", lambda *_: ThresholdGenerator(threshold=190))
    for module in ("pipeline", "stages.classify"):
        monkeypatch.setattr(f"napari_bloodcell.{module}.load_classifier", lambda *_: BrightnessClassifier())


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom() -> None:
    notebook = json.loads((EXAMPLES / "analyse.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert names["result"].counts["RBC"] > 60
    assert names["result"].counts["WBC"] >= 1
    assert (names["folder"] / "counts.json").is_file()


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = json.loads((EXAMPLES / "analyse.ipynb").read_text(encoding="utf-8"))
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook["cells"])


def test_every_picture_of_the_guide_is_there_and_is_made_by_the_script() -> None:
    docs = EXAMPLES.parent
    scripts = docs.glob("*.py")
    script = "".join(path.read_text(encoding="utf-8") for path in scripts)
    for page in (*docs.rglob("*.md"), docs.parent / "README.md"):
        for picture in re.findall(r"!\[[^\]]*\]\(([^)]*images/[^)]*)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / picture).is_file(), picture
            assert Path(picture).stem.removeprefix("dock_") in script


@pytest.mark.usefixtures("_quick_models", "nothing_left")
def test_the_script_shows_a_window_with_the_result(
    make_napari_viewer: Any, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    import napari

    monkeypatch.setattr(napari, "Viewer", make_napari_viewer)
    viewer = runpy.run_path(str(EXAMPLES / "script_viewer.py"))["main"]()
    assert [layer.name for layer in viewer.layers] == ["smear", "smear types", "smear cells"]
    qtbot.wait(50)
