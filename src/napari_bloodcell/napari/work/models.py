"""Loads models for work in a thread step by step, so that the window stays responsive."""

from __future__ import annotations

import gc
import importlib
import threading
from collections.abc import Callable, Generator
from functools import cache
from typing import Final

from napari_bloodcell.core.params import ClassifyParams, SegmentParams
from napari_bloodcell.core.protocols import CellClassifier, MaskGenerator, Progress
from napari_bloodcell.models.load import load_classifier, load_generator
from napari_bloodcell.models.preload import quiet_loading
from napari_bloodcell.models.weights import iter_download, needs_download

ShouldStop = Callable[[], bool]


def iter_fetch(model: str, should_stop: ShouldStop = lambda: False) -> Generator[Progress, None, bool]:
    """Download a model's weights if they are missing, and return whether they are complete.

    A partial download is kept when the work should stop.
    """
    if needs_download(model):
        for step in iter_download(model):
            yield step
            if should_stop():
                return False
    return not should_stop()


def iter_generator(params: SegmentParams) -> Generator[Progress, None, MaskGenerator]:
    """Load the mask generator that the settings name; its weights must be here."""
    yield Progress(0, 0, "loading the model")
    with quiet_loading():
        return load_generator(params.model, params.device, params.precision)


def iter_classifier(params: ClassifyParams) -> Generator[Progress, None, CellClassifier]:
    """Load the classifier that the settings name."""
    yield Progress(0, 0, "loading the model")
    with quiet_loading():
        return load_classifier(params.model, params.device, params.precision)


_FIRST_USED: Final = ("skimage.color", "skimage.exposure", "scipy.linalg", "scipy.ndimage")


def _preload_for_layers() -> None:
    for name in _FIRST_USED:
        importlib.import_module(name)
    from vispy.visuals.line.dash_atlas import DashAtlas

    DashAtlas()  # vispy caches the patterns of dashed lines


@cache
def preload_for_layers() -> threading.Thread:
    """Load, once and in a thread, what the first cells layer needs, which takes a fifth of a second."""
    thread = threading.Thread(target=_preload_for_layers, name="napari-bloodcell preload", daemon=True)
    thread.start()
    return thread


def postpone_collection() -> None:
    """Keep the garbage collector from scanning all objects now, which stops napari for a fifth of a second.

    Marks existing objects as old, as `preload.quiet_loading` does, so that counting starts anew.
    """
    if gc.get_freeze_count() == 0:  # else another package uses freeze
        gc.freeze()
        gc.unfreeze()
