"""The napari plugin: the only code that uses Qt and napari.

Functions for scripts (`api`) are available as ``napari_bloodcell.napari.segment_layer`` and so on. Importing this
package loads neither Qt nor napari. Where napari is not installed (it is an extra), naming one of the functions raises
`ImportError` that says how to install it.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_bloodcell.napari.api import (
        analyse_layer,
        analyse_slide,
        cells_layer_for,
        classify_layer,
        correct_cells,
        count_layer,
        open_result,
        restore_corrections,
        result_of,
        save_result,
        segment_layer,
        table_of,
        types_layer_for,
    )

__all__ = [
    "analyse_layer",
    "analyse_slide",
    "cells_layer_for",
    "classify_layer",
    "correct_cells",
    "count_layer",
    "open_result",
    "restore_corrections",
    "result_of",
    "save_result",
    "segment_layer",
    "table_of",
    "types_layer_for",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if find_spec("napari") is None:
        raise ImportError(
            f"napari_bloodcell.napari.{name} needs napari, which is not installed: "
            'pip install "napari-bloodcell[all]" brings it with a Qt, "napari-bloodcell[napari]" without one.'
        )
    from napari_bloodcell.napari import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
