"""Fixtures of the tests of the command line."""

from __future__ import annotations

import pytest

from napari_bloodcell.cli import batch
from tests.fakes import BrightnessClassifier, ThresholdGenerator


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> ThresholdGenerator:
    """The generator of the fake models that commands get instead of real ones."""
    models = batch.Models(ThresholdGenerator(), BrightnessClassifier())
    monkeypatch.setattr(batch, "load_models", lambda recipe, quiet=False: models)
    assert isinstance(models.generator, ThresholdGenerator)
    return models.generator
