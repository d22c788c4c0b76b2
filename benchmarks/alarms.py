"""False alarms, and what judging costs: ``python -m benchmarks.alarms [DATA [FIELDS]]``, half an hour on one core.

Good fields of eight laboratories, each analysed as a user would, without settings. A field that is warned of is a false
alarm and is named with what was said. Cost is the time of the processor, in the same run: what decides about warnings
(surroundings, light, how sure the scale is and whether it is a smear) as a share of the analysis. Which processor and
precision: the first line.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from PIL import Image

import napari_bloodcell as nb
from benchmarks.speed import machine
from napari_bloodcell.models.embedded import proposals
from napari_bloodcell.models.load import load_models
from napari_bloodcell.stages import segment
from training.sam_data import laboratory_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TXL = {"360x363": "PBC", "575x575": "Raabin", "640x480": "BCCD", "416x416": "BCD"}
"""Laboratories of TXL-PBC by the size of their pictures."""
JUDGING = (
    (segment, "overview_of"),
    (segment, "find_surroundings"),
    (segment, "measure_light"),
    (segment, "has_lines"),
    (segment, "doubts_of"),
    (proposals, "judge"),
    (proposals, "_smear_confidence"),
    (proposals, "_scale_confidence"),
)
"""Functions that decide about warnings and about nothing else."""


def fields_of(data: Path, n_fields: int) -> Iterator[tuple[str, Path]]:
    """Yield (laboratory, file): about as many of each, spread over its files."""
    files: dict[str, list[Path]] = {
        "HS1": sorted((data / "smears/HS1/images").glob("*.jpg")),
        "HS2": sorted((data / "smears/HS2/images").glob("*.jpg")),
    }
    for file in sorted((data / "txl_pbc/images").rglob("*.*")):
        with Image.open(file) as image:
            files.setdefault(TXL[laboratory_of(image.size)], []).append(file)
    files["Chula"] = sorted((data / "chula/images").iterdir())
    files["IML-Malaria"] = sorted((data / "iml_malaria").glob("*.jpg"))
    files["BBBC041"] = sorted((data / "bbbc041").glob("*.jpg"))
    for laboratory, of_it in files.items():
        yield from ((laboratory, of_it[i * len(of_it) // n_fields]) for i in range(min(n_fields, len(of_it))))


class Clock:
    """Time of the processor spent in functions while they are watched, seconds; within each other it counts once."""

    def __init__(self) -> None:
        self.seconds, self._depth = 0.0, 0

    def watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose time is counted."""

        def call(*args: Any, **more: Any) -> Any:
            self._depth += 1
            start = time.process_time()
            try:
                return function(*args, **more)
            finally:
                self._depth -= 1
                self.seconds += (time.process_time() - start) * (self._depth == 0)

        return call


def main() -> None:
    """Print the table."""
    data = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data")
    n_fields = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    print(machine())
    warnings.simplefilter("ignore")
    generator, classifier = load_models(nb.Recipe())
    tried: dict[str, int] = {}
    alarms: dict[str, list[str]] = {}
    lowest: dict[str, tuple[float, float]] = {}
    shares: list[float] = []
    for laboratory, file in fields_of(data, n_fields):
        clock = Clock()
        with ExitStack() as stack:
            for module, name in JUDGING:
                stack.enter_context(mock.patch.object(module, name, clock.watched(getattr(module, name))))
            start = time.process_time()
            result = nb.analyse(file, generator=generator, classifier=classifier)
        shares.append(clock.seconds / (time.process_time() - start))
        seen = result.calibration
        low = lowest.get(laboratory, (1.0, 1.0))
        lowest[laboratory] = min(low[0], seen.scale_confidence), min(low[1], seen.smear_confidence)
        tried[laboratory] = tried.get(laboratory, 0) + 1
        if result.warnings:
            alarms.setdefault(laboratory, []).append(file.name)
            print(f"{file.name}: {' '.join(result.warnings)}", flush=True)
    print("| laboratory | fields | warned of | lowest confidence: scale | smear |\n|---|---|---|---|---|")
    for laboratory, n in tried.items():
        scale, smear = lowest[laboratory]
        print(f"| {laboratory} | {n} | {len(alarms.get(laboratory, []))} | {scale:.2f} | {smear:.2f} |")
    middle, worst = statistics.median(shares[1:]), statistics.quantiles(shares[1:], n=20)[-1]
    print(f"Judging takes {middle:.2%} of the analysis (median of {len(shares) - 1}; 95th percentile {worst:.2%}).")


if __name__ == "__main__":
    main()
