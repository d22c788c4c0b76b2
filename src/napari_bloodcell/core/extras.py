"""Libraries that only some functions need."""

from __future__ import annotations

import importlib
from typing import Any

from napari_bloodcell.core.errors import InputError


def needed(module: str, *, extra: str, what: str) -> Any:
    """Return a library of an extra; `InputError` that says how to install it if it is not there."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f'{what} needs {module}, which is not installed: pip install "napari-bloodcell[{extra}]".'
        ) from error
