"""Time and memory of the whole pipeline: `python -m benchmarks.speed ../shared/data`.

Reads, segments, types and counts every patch of HS2 in one process and prints a Markdown table with the machine's
description.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import napari_bloodcell as nb
from napari_bloodcell.backends.device import fast_bf16
from napari_bloodcell.progress import drain

if TYPE_CHECKING:
    from napari_bloodcell.protocols import Progress


def machine() -> str:
    """Processor, cores and torch in a line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":")[1].strip() if lines else model
    precision = "bf16" if fast_bf16("cpu") else "fp32"
    return (
        f"{model}, {os.cpu_count()} cores, {precision}, torch {torch.__version__}, Python {platform.python_version()}"
    )


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--patches", type=int, default=180)
    args = parser.parse_args(arguments)
    paths = sorted((args.data / "smears/HS2/images").glob("*.jpg"))[: args.patches]
    seconds: dict[str, float] = {}
    cells = 0
    start = time.perf_counter()
    for path in paths:
        last = time.perf_counter()

        def spend(step: Progress) -> None:
            nonlocal last
            now = time.perf_counter()
            seconds[step.what] = seconds.get(step.what, 0.0) + now - last
            last = now

        result = drain(nb.iter_analyse(path), spend)
        cells += len(result.table)
    total = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    megapixels = len(paths) * 512 * 512 / 1e6
    out = sys.stdout
    out.write(f"{machine()}\n\n| measure | value |\n|---|---|\n")
    out.write(f"| {len(paths)} patches of HS2, read, segmented, typed, counted | {total:.0f} s |\n")
    out.write(f"| megapixels per second | {megapixels / total:.2f} |\n")
    out.write(f"| cells per second | {cells / total:.0f} |\n")
    for stage, spent in seconds.items():
        out.write(f"| of it: {stage} | {100 * spent / total:.0f} % |\n")
    out.write(f"| peak memory | {peak:.2f} GB |\n")


if __name__ == "__main__":
    main()
