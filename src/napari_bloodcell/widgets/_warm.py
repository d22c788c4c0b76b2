"""What napari loads and computes with the first Labels layer of a process, done before it is needed."""

from __future__ import annotations

import gc
import importlib
import threading
from functools import cache
from typing import Final

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
