"""Loads torch beside a window: what would hold Python's lock for long is done without it, or left out."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Let other threads run while torch, and what needs it, is imported inside the block.

    The libraries of torch are loaded before (`preload_torch`), and the garbage collector rests: it would go through
    every object of the process several times, a third of a second each in napari's, with the lock held. What was
    imported is counted as old, so that it is not gone through as soon as the collector works again.
    """
    preload_torch()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if gc.get_freeze_count() == 0:  # else someone relies on what is frozen
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def preload_torch() -> bool:
    """Load torch's largest library as the dynamic linker does, and return whether that was done.

    ``import torch`` does the same, but holds the interpreter's lock for the half second that it takes: every other
    thread stands still. Where it cannot be done (torch is loaded already, or this is Windows), nothing happens.
    """
    if "torch" in sys.modules or sys.platform == "win32":
        return False
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    suffix = "dylib" if sys.platform == "darwin" else "so"
    library = Path(spec.origin).parent / "lib" / f"libtorch_cpu.{suffix}"
    if not library.is_file():
        return False
    linker = ctypes.CDLL(None).dlopen  # a call through ctypes gives the lock up, ctypes.CDLL(path) does not
    linker.restype, linker.argtypes = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_int)
    handle = linker(str(library).encode(), ctypes.DEFAULT_MODE | 2)  # 2: RTLD_NOW
    if not handle:
        logger.info("%s was not loaded ahead; importing torch will", library)
    return bool(handle)
