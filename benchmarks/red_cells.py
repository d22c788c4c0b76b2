"""What measuring cells costs: ``python -m benchmarks.red_cells [DATA [FIELDS]]``, a minute or two on two cores.

Fields of Chula RBC-12, analysed with every measurement of each cell. Time is that of the processor, so that other work
on the machine does not count; which processor and precision: the first line.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

import napari_bloodcell as nb
from benchmarks.speed import machine
from napari_bloodcell.core.measures import MEASURES
from napari_bloodcell.learning.dataset import read_picture
from napari_bloodcell.stages.red_cells.measurements import add_measurements


def main() -> None:
    """Print the table."""
    data = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data")
    n_fields = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    print(machine())
    files = sorted((data / "chula" / "images").glob("*.jpg"))
    cells, spent, measuring = 0, 0.0, 0.0
    for file in files[:: max(1, len(files) // (n_fields + 1))][: n_fields + 1]:
        image = read_picture(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", nb.ResultWarning)
            start = time.process_time()
            result = nb.analyse(image)
        middle = time.process_time()
        add_measurements(image, result.cells, result.table, result.calibration, MEASURES)
        end = time.process_time()
        if file is not files[0]:  # the first also loads the models
            cells, spent, measuring = cells + len(result.table), spent + middle - start, measuring + end - middle
    print(
        f"{cells:,} cells of {n_fields} fields: {1e3 * measuring / cells:.2f} ms a cell to measure, "
        f"{1e3 * spent / cells:.1f} ms to find, type and count; {measuring / spent:.1%}"
    )


if __name__ == "__main__":
    main()
