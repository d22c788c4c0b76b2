"""Models for work in a worker: fetched and loaded step by step, so that the window lives meanwhile."""

from __future__ import annotations

import gc
import importlib
import threading
from functools import cache
from typing import TYPE_CHECKING, Final

from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.models.load import load_classifier, load_generator
from napari_bloodcell.models.preload import quiet_loading
from napari_bloodcell.models.weights import iter_download, needs_download

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from napari_bloodcell.core.params import ClassifyParams, SegmentParams
    from napari_bloodcell.core.protocols import CellClassifier, MaskGenerator

    ShouldStop = Callable[[], bool]


def iter_fetch(model: str, should_stop: ShouldStop = lambda: False) -> Generator[Progress, None, bool]:
    """Download a model's weights where they are not on this machine yet, and return whether all of them are.

    What has come when the work should stop is kept for the next time.
    """
    if needs_download(model):
        for step in iter_download(model):
            yield step
            if should_stop():
                return False
    return not should_stop()


def iter_generator(params: SegmentParams) -> Generator[Progress, None, MaskGenerator]:
    """Return the mask generator that the settings name; its weights are here."""
    yield Progress(0, 0, "loading the model")
    with quiet_loading():
        return load_generator(params.model, params.device, params.precision)


def iter_classifier(params: ClassifyParams) -> Generator[Progress, None, CellClassifier]:
    """Return the classifier that the settings name."""
    yield Progress(0, 0, "loading the model")
    with quiet_loading():
        return load_classifier(params.model, params.device, params.precision)


_FIRST_USED: Final = ("skimage.color", "skimage.exposure", "scipy.linalg", "scipy.ndimage")


def _warm_up() -> None:
    for name in _FIRST_USED:
        importlib.import_module(name)
    from vispy.visuals.line.dash_atlas import DashAtlas

    DashAtlas()  # the patterns of dashed lines, which vispy keeps


@cache
def warm_up() -> threading.Thread:
    """Begin this in a thread, once; a fifth of a second that the window would stand still when cells are added."""
    thread = threading.Thread(target=_warm_up, name="napari-bloodcell warm-up", daemon=True)
    thread.start()
    return thread


def postpone_collection() -> None:
    """Let Python's collector not go through every object of the process right now: in napari's, a fifth of a second.

    What is there is counted as old, as `preload.quiet_loading` does, and the collector begins to count anew.
    """
    if gc.get_freeze_count() == 0:  # else someone relies on what is frozen
        gc.freeze()
        gc.unfreeze()
