"""Inputs that are wrong in many ways, and what a user does with them; `benchmarks.fuzz` and the tests run them.

A kind is a function of a random generator and an empty folder. It makes one input from them, always the same from the
same seed, uses it as a user would, and checks what comes out. It may raise an error of the program's own type; any
other exception is a fault of the program.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.fuzzing import images, models, records, stores

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

    Kind = Callable[[np.random.Generator, Path], object]

KINDS: dict[str, Kind] = {
    "arrays": images.use_array,
    "analysed arrays": images.analyse_array,
    "image files": images.use_file,
    "batches of files": images.use_batch,
    "recipes": records.use_recipe,
    "journals": records.use_journal,
    "tables of results": records.use_result_table,
    "training lists": records.use_training_list,
    "Parquet tables": records.use_parquet,
    "OME-Zarr": stores.use_zarr,
    "work folders": stores.use_work,
    "classifiers": models.use_classifier,
    "SAM checkpoints": models.use_sam,
    "pickles with code": models.use_pickle,
}
"""What is tried, by name."""
