"""What a dock connects to napari goes with it."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from napari.components import ViewerModel
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QApplication

from napari_bloodcell.napari.docks.base import LayerChoice
from napari_bloodcell.napari.notify import explained


@pytest.mark.parametrize("name", ["inserted", "removed", "reordered", "renamed"])
def test_nothing_of_a_closed_choice_of_layers_stays_with_napari(qtbot, name):
    viewer = ViewerModel()
    emitter = getattr(viewer.layers.events, name)
    before = emitter.callbacks
    choice = LayerChoice(viewer, lambda layer: True, follows_active=True)
    assert len(emitter.callbacks) == len(before) + 1
    choice.deleteLater()
    del choice
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    gc.collect()
    assert emitter.callbacks == before


def test_a_choice_follows_the_layers_until_it_is_closed(qtbot):
    viewer = ViewerModel()
    choice = LayerChoice(viewer, lambda layer: True)
    qtbot.addWidget(choice)
    viewer.add_image(np.zeros((4, 4)), name="smear")
    viewer.layers["smear"].name = "renamed"
    assert choice.currentText() == "renamed"


def test_what_torch_says_is_kept_for_the_traceback():
    with pytest.raises(RuntimeError) as own:
        raise RuntimeError("the layers do not fit")
    with pytest.raises(RuntimeError) as torchs:
        torch.nn.functional.pad(torch.zeros(2, 2), (1, 1), mode="reflect", value=1.0)
    assert "RuntimeError: the layers do not fit" in explained(own.value)
    assert "RuntimeError)" in explained(torchs.value)
    assert str(torchs.value).split()[0] not in explained(torchs.value)
