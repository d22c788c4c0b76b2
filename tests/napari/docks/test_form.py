from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox

from napari_bloodcell.core.errors import SettingsError
from napari_bloodcell.core.params import ClassifyParams, CountParams, Params, SegmentParams, TrainParams
from napari_bloodcell.napari.docks.form import NameChoice, SettingsForm, label_of

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
    pixel_size_um=st.none() | st.integers(1, 200).map(lambda n: n / 100),
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
        assert field.description.split()[0] in form.field(name).toolTip()


def test_bounds_are_those_of_the_settings(qtbot: QtBot) -> None:
    box = form_of(qtbot, SegmentParams).field("brightness_target")
    assert isinstance(box, QDoubleSpinBox)
    box.setValue(1e6)
    assert box.value() == 255


def test_nothing_given_is_shown_as_auto(qtbot: QtBot) -> None:
    form = form_of(qtbot, SegmentParams)
    for name in ("tile_overlap", "rbc_diameter_px", "pixel_size_um"):
        assert form.field(name).text() == "auto"
    form.field("tile_overlap").setValue(0)
    assert form.settings().tile_overlap == 0


def test_a_path_may_be_typed_for_a_model(qtbot: QtBot) -> None:
    form = form_of(qtbot, ClassifyParams)
    choice = form.field("model")
    assert isinstance(choice, NameChoice)
    choice.value = " /weights/mine.safetensors "
    assert form.settings().model == "/weights/mine.safetensors"


def test_a_change_is_told(qtbot: QtBot) -> None:
    form = form_of(qtbot, SegmentParams)
    box = form.field("brighten")
    assert isinstance(box, QCheckBox)
    with qtbot.waitSignal(form.changed):
        box.setChecked(False)


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
    ("name", "label"),
    [
        ("rbc_diameter_px", "RBC diameter (px)"),
        ("pixel_size_um", "Pixel size (µm)"),
        ("predicted_iou_min", "Predicted IoU min"),
        ("device", "Device"),
    ],
)
def test_labels_are_words_with_units(name: str, label: str) -> None:
    assert label_of(name) == label


def test_a_small_number_is_not_rounded_away(qtbot: QtBot) -> None:
    form = form_of(qtbot, TrainParams, without=("split",))
    assert form.settings() == TrainParams()
    form.set_values({"learning_rate": 1e-5})
    assert form.settings().learning_rate == 1e-5
