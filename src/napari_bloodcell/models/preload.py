"""Loads torch beside a window: long work under Python's lock is moved out of it, or avoided."""

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
    """Let other threads run while torch, and what needs it, is imported in the block.

    Torch's libraries are loaded first (`preload_torch`), and the garbage collector rests: it would traverse every
    object of the process several times, a third of a second each in napari's, while holding the lock. Imported objects
    are then counted as old, so that they are not traversed as soon as the collector works again.
    """
    preload_torch()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if gc.get_freeze_count() == 0:  # otherwise someone relies on what is frozen
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def preload_torch() -> bool:
    """Load torch's largest library with the dynamic linker, and return whether that was done.

    ``import torch`` does the same, but holds the interpreter's lock for half a second, in which every other thread
    stands still. Nothing happens if torch is loaded already, or on Windows.
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
