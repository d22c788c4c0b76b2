from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication, QFileDialog

from napari_bloodcell.core.errors import SettingsError
from napari_bloodcell.core.params import ClassifyParams, CountParams, Params, SegmentParams, TrainParams
from napari_bloodcell.napari.docks.form import OTHER, NameChoice, SettingsForm, label_of

if TYPE_CHECKING:
    from pytestqt.qtbot import QtBot


def form_of(qtbot: QtBot, model: type[Params], **options: object) -> SettingsForm:
    form = SettingsForm(model, first=("model", "device"), **options)  # type: ignore[arg-type]
    qtbot.addWidget(form)
    return form


@pytest.mark.parametrize("model", [SegmentParams, ClassifyParams, CountParams])
def test_an_untouched_form_gives_the_defaults(qtbot: QtBot, model: type[Params]) -> None:
    assert form_of(qtbot, model).settings() == model()


@given(
    tile_size=st.integers(64, 8192),
    tile_overlap=st.none() | st.integers(0, 1024),
    pixel_size_um=st.none() | st.integers(50, 20_000).map(lambda n: n / 10_000),
    brighten=st.booleans(),
    prompts=st.sampled_from(["cells", "grid"]),
    score_min=st.integers(0, 100).map(lambda n: n / 100),
)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_shown_is_what_comes_back(qtbot: QtBot, **values: object) -> None:
    given_ = SegmentParams(**values)  # type: ignore[arg-type]
    form = form_of(qtbot, SegmentParams, values=given_.model_dump())
    assert form.settings() == given_


def test_every_setting_has_its_docstring_as_tooltip(qtbot: QtBot) -> None:
    form = form_of(qtbot, SegmentParams)
    for name, field in SegmentParams.model_fields.items():
        assert field.description
        assert field.description.split()[0] in form.field(name).tooltip


def test_bounds_are_those_of_the_settings(qtbot: QtBot) -> None:
    box = form_of(qtbot, SegmentParams).field("brightness_target")
    assert (box.min, box.max) == (0.01, 255)  # type: ignore[attr-defined]


def test_nothing_given_is_shown_as_auto(qtbot: QtBot) -> None:
    form = form_of(qtbot, SegmentParams)
    for name in ("tile_overlap", "rbc_diameter_px", "pixel_size_um"):
        assert form.field(name).native.text() == "auto"
    form.field("tile_overlap").native.setText("0")
    assert form.settings().tile_overlap == 0


def test_the_last_entry_of_a_model_asks_for_a_file(qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    form = form_of(qtbot, ClassifyParams)
    choice = form.field("model")
    assert isinstance(choice, NameChoice)
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_args: ("", ""))
    choice.native.setCurrentText(OTHER)
    assert form.settings().model == "embedded"
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_args: ("/weights/mine.safetensors", ""))
    choice.native.setCurrentText(OTHER)
    assert form.settings().model == "/weights/mine.safetensors"


def test_a_model_that_is_not_in_the_list_is_shown(qtbot: QtBot) -> None:
    form = form_of(qtbot, SegmentParams, values={"model": "/weights/mine.pth", "device": "cuda:1"})
    assert (form.settings().model, form.settings().device) == ("/weights/mine.pth", "cuda:1")


def test_a_pixel_size_is_not_rounded(qtbot: QtBot) -> None:
    form = form_of(qtbot, SegmentParams, values={"pixel_size_um": 0.0645})
    assert form.field("pixel_size_um").native.text() == "0.0645"
    form.field("pixel_size_um").native.setText("0,1625")
    assert form.settings().pixel_size_um == 0.1625


def test_text_that_is_no_number_is_told(qtbot: QtBot) -> None:
    form = form_of(qtbot, SegmentParams)
    form.field("pixel_size_um").native.setText("small")
    with pytest.raises(SettingsError, match="pixel_size_um"):
        form.settings()


def test_no_tooltip_sends_people_to_sections_of_the_paper(qtbot: QtBot) -> None:
    for model in (SegmentParams, ClassifyParams, CountParams, TrainParams):
        form = form_of(qtbot, model)
        tips = [
            form.field(name).tooltip
            for name in model.model_fields
            if name not in ("split", "thresholds", "subtypes", "measurements")
        ]
        assert not [tip for tip in tips if "§" in tip or "Table " in tip]


def test_the_wheel_changes_no_setting_that_it_passes_over(qtbot: QtBot) -> None:
    form = form_of(qtbot, SegmentParams)
    box = form.field("tile_size").native
    middle, down = QPointF(box.rect().center()), QPoint(0, -120)
    buttons, keys = Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier
    wheel = QWheelEvent(middle, middle, down, down, buttons, keys, Qt.ScrollPhase.NoScrollPhase, False)
    QApplication.sendEvent(box, wheel)
    assert form.settings().tile_size == 512


def test_a_change_is_told(qtbot: QtBot) -> None:
    form = form_of(qtbot, SegmentParams)
    with qtbot.waitSignal(form.changed):
        form.field("brighten").native.setChecked(False)


def test_a_setting_that_is_not_allowed_is_named(qtbot: QtBot) -> None:
    from pydantic import Field

    class Narrow(Params):
        """For this test."""

        model: str = Field(default="a", max_length=3)
        """A short name."""

    form = form_of(qtbot, Narrow)
    form.set_values({"model": "too long"})
    with pytest.raises(SettingsError, match="model"):
        form.settings()


@pytest.mark.parametrize(
    ("name", "unit", "label"),
    [
        ("rbc_diameter_px", "px", "RBC diameter (px)"),
        ("pixel_size_um", "µm", "Pixel size (µm)"),
        ("predicted_iou_min", "", "Predicted IoU min"),
        ("device", "", "Device"),
    ],
)
def test_labels_are_words_with_units(name: str, unit: str, label: str) -> None:
    assert label_of(name, unit) == label


def test_a_small_number_is_not_rounded_away(qtbot: QtBot) -> None:
    form = form_of(qtbot, TrainParams)
    assert form.settings() == TrainParams()
    form.set_values({"learning_rate": 1e-5})
    assert form.settings().learning_rate == 1e-5
