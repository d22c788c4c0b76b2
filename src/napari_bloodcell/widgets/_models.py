"""Models for work in a worker: fetched and loaded step by step, so that the window lives meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_bloodcell.backends.preload import quiet_loading
from napari_bloodcell.protocols import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from napari_bloodcell.params import ClassifyParams, SegmentParams
    from napari_bloodcell.protocols import CellClassifier, MaskGenerator

    ShouldStop = Callable[[], bool]


def needs_download(model: str) -> bool:
    """Return whether a model's weights must be downloaded first."""
    from napari_bloodcell.backends import weights

    return model in weights.OFFICIAL and not weights.find(model).is_present


def iter_fetch(model: str, should_stop: ShouldStop = lambda: False) -> Generator[Progress, None, bool]:
    """Download a model's weights where they are not on this machine yet, and return whether all of them are.

    What has come when the work should stop is kept for the next time.
    """
    from napari_bloodcell.backends import weights

    if needs_download(model):
        for step in weights.iter_download(model):
            yield step
            if should_stop():
                return False
    return not should_stop()


def iter_generator(params: SegmentParams) -> Generator[Progress, None, MaskGenerator]:
    """Return the mask generator that the settings name; its weights are here."""
    yield Progress(0, 0, "loading the model")
    with quiet_loading():
        from napari_bloodcell.backends.registry import load_generator

        return load_generator(params.model, params.device)


def iter_classifier(params: ClassifyParams) -> Generator[Progress, None, CellClassifier]:
    """Return the classifier that the settings name."""
    yield Progress(0, 0, "loading the model")
    with quiet_loading():
        from napari_bloodcell.classify import load_classifier

        return load_classifier(params)
