from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import napari_bloodcell as nb
from napari_bloodcell.core.errors import DownloadError, ModelError
from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.models import load, weights
from tests.fakes import disc_image

if TYPE_CHECKING:
    from collections.abc import Generator


def download(name: str) -> Generator[Progress, None, None]:
    yield Progress(1_000_000, 375_000_000, f"downloading {name}")
    raise DownloadError("there is no connection")


def test_the_download_of_official_weights_is_told_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "iter_download", download)
    work = nb.iter_segment(disc_image([(30.0, 30.0)], (64, 64)), params=nb.SegmentParams(model="vit_b", device="cpu"))
    assert next(work) == Progress(1_000_000, 375_000_000, "downloading vit_b")
    with pytest.raises(DownloadError, match="no connection"):
        next(work)


def test_the_embedded_generator_needs_no_download_and_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "iter_download", download)
    loading = load.iter_load_generator("embedded", "cpu")
    with pytest.raises(StopIteration) as end:
        next(loading)
    assert end.value.value is load.load_generator("embedded", "cpu")
    assert str(end.value.value.device) == "cpu"


def test_a_name_that_is_no_model_is_told_with_those_that_are() -> None:
    with pytest.raises(ModelError, match='"vit_b" or "vit_l" or "vit_h"'):
        load.load_generator("vit_x")


def test_every_name_that_settings_take_is_that_of_a_known_file() -> None:
    for file in (*weights.GENERATORS.values(), *weights.CLASSIFIERS.values()):
        assert weights.find(file).name == file


@pytest.mark.parametrize("name", weights.CLASSIFIERS)
def test_a_classifier_is_loaded_by_its_name(name: str) -> None:
    classifier = load.load_classifier(name, "cpu")
    assert classifier.name == name
    assert classifier.sha256 == weights.sha256_of(weights.find(weights.CLASSIFIERS[name]).path)
