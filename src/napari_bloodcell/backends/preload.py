"""Loads torch's largest library without holding Python's lock, so that a window stays alive meanwhile."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import sys
from pathlib import Path

logger = logging.getLogger(__name__)


def preload_torch() -> bool:
    """Load torch's library of kernels as the dynamic linker does, and return whether that was done.

    ``import torch`` does the same, but holds the interpreter's lock for the half second that it takes: every other
    thread stands still. Called from a worker before the import, this leaves little of that. Where it cannot be done
    (torch is loaded already, or this is Windows), nothing happens.
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
