"""Time and memory: `python -m benchmarks.speed ../shared/data [--only embedded classical typing ...]`.

Prints one Markdown table with the machine's description. Ratios are of runs side by side, one after the other in turn,
so that a noisy machine slows both. `stock` takes an hour: it runs SAM's published generator as it is.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

import napari_bloodcell as nb
from benchmarks.classical import classical_cells, measure
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.models.device import fast_bf16
from napari_bloodcell.models.embedded.sam import EmbeddedSam
from napari_bloodcell.models.load import load_classifier, load_generator, load_subtypes
from napari_bloodcell.models.official.sam import OfficialSam
from napari_bloodcell.models.sam_modules import build_sam
from napari_bloodcell.stages.calibration import background_colour
from napari_bloodcell.stages.classify import classify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from napari_bloodcell.models.cnn.classifier import CnnClassifier

Row = tuple[str, str, str]
HS_DIAMETER_PX = 34.0
PAIRS = 31
"""How often the embedded model and the classical way are timed one after the other."""
SECTIONS = ("embedded", "patches", "classical", "typing", "tile_sizes", "counting", "start", "stock")


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


def tile_paths(data: Path, smear: str, n: int) -> list[Path]:
    """Return n patches of a smear, from its whole width."""
    paths = sorted((data / f"smears/{smear}/images").glob("*.jpg"))
    return paths[:: max(1, len(paths) // n)][:n]


def tiles(data: Path, smear: str, n: int) -> list[NDArray[np.uint8]]:
    """Return the pixels of `tile_paths`."""
    return [np.asarray(Image.open(p).convert("RGB")) for p in tile_paths(data, smear, n)]


def in_turn(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Call each function in turn, `rounds` times after a first time; return the seconds of each, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def side_by_side(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Do as `in_turn`, and return the median seconds of each."""
    return {name: statistics.median(values) for name, values in in_turn(functions, rounds).items()}


class NetworkClock:
    """Measures how long the networks themselves take while it is entered."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._undo: list[Callable[[], None]] = []

    def watch(self, owner: Any, name: str) -> None:
        """Add a method to what is measured."""
        method = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        setattr(owner, name, timed)
        self._undo.append(lambda: setattr(owner, name, method))

    def watch_models(self, generator: EmbeddedSam, classifier: CnnClassifier) -> None:
        """Add what the networks of an analysis do: in either precision, and of the kinds of white cells."""
        for encoder in {id(one): one for one in (generator.network.encoder, generator._quick)}.values():
            self.watch(encoder, "forward")
        self.watch(generator.network, "decode")
        self.watch(classifier, "_probabilities")
        self.watch(load_subtypes("differential"), "_probabilities")

    def stop(self) -> None:
        """Take the measurement out again."""
        for undo in self._undo:
            undo()


def _slide(data: Path, columns: int = 4, rows: int = 4) -> NDArray[np.uint8]:
    """Return patches of HS1 that lie side by side as one image."""
    folder = data / "smears/HS1/images"
    return np.concatenate(
        [
            np.concatenate(
                [
                    np.asarray(Image.open(folder / f"HS1_r{r:02d}_c{c:02d}.jpg").convert("RGB"))
                    for c in range(4, 4 + columns)
                ],
                1,
            )
            for r in range(2, 2 + rows)
        ],
        0,
    )


def _worker(path: str, seconds_path: str, threads: int) -> None:
    """Analyse one image file, twice; write how long the second took and the part of the networks."""
    torch.set_num_threads(threads)
    nb.analyse(path)
    clock = NetworkClock()
    generator, classifier = load_generator("embedded"), load_classifier()
    assert isinstance(generator, EmbeddedSam)
    clock.watch_models(generator, classifier)
    start = time.perf_counter()
    nb.analyse(path, generator=generator, classifier=classifier)
    Path(seconds_path).write_text(f"{time.perf_counter() - start} {clock.seconds}")


def embedded(data: Path) -> Iterator[Row]:
    """Megapixels per second of slides, end to end, on one core and on all, and the networks' share."""
    slide = _slide(data, 6, 6)
    megapixels = slide.shape[0] * slide.shape[1] / 1e6
    context = get_context("spawn")
    cores = os.cpu_count() or 1
    what = f"embedded model, {slide.shape[1]}×{slide.shape[0]} px of HS1, read to count"
    for processes, threads in ((1, 1), (1, cores), (cores, 1)):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "slide.png"
            Image.fromarray(slide).save(path, compress_level=1)
            notes = [Path(folder) / f"{k}.txt" for k in range(processes)]
            workers = [context.Process(target=_worker, args=(str(path), str(n), threads)) for n in notes]
            for w in workers:
                w.start()
            for w in workers:
                w.join()
            values = np.array([[float(v) for v in n.read_text().split()] for n in notes])
        rate = processes * megapixels / values[:, 0].max()
        wanted = "" if processes * threads == 1 else "2 on two cores"
        yield f"{what}, {processes} process(es) with {threads} thread(s) each", f"{rate:.2f} megapixels/s", wanted
        if threads == 1:
            share = 100 * values[:, 1].sum() / values[:, 0].sum()
            yield f"share of the networks in that, {processes} process(es)", f"{share:.0f} %", "60 %"


_PATCHES = """
import resource, sys, time
from pathlib import Path
import napari_bloodcell as nb
paths = [Path(p) for p in sys.argv[1:]]
nb.analyse(paths[0])
start = time.perf_counter()
cells = sum(len(nb.analyse(p).table) for p in paths)
print(time.perf_counter() - start, cells, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def patches(data: Path) -> Iterator[Row]:
    """HS2's patches one by one in one process, with its peak memory."""
    paths = sorted((data / "smears/HS2/images").glob("*.jpg"))
    done = subprocess.run(
        [sys.executable, "-c", _PATCHES, *map(str, paths)], check=True, capture_output=True, text=True
    )
    seconds, cells, peak = (float(v) for v in done.stdout.split())
    yield f"{len(paths)} patches of HS2, read, segmented, typed, counted", f"{seconds:.0f} s", "180 s"
    yield "cells per second in that", f"{cells / seconds:.0f}", ""
    yield "peak memory of that process", f"{peak:.2f} GB", "1.2 GB"


def classical(data: Path) -> Iterator[Row]:
    """Compare the embedded model with Otsu + watershed + regionprops on the same tiles."""
    slide = _slide(data)
    side, (height, width) = 512, slide.shape[:2]
    patches = [slide[y : y + side, x : x + side] for y in range(0, height, side) for x in range(0, width, side)]
    generator = load_generator("embedded")
    params = nb.SegmentParams(rbc_diameter_px=HS_DIAMETER_PX)

    def ours() -> None:
        nb.segment(slide, params=params, generator=generator)

    def theirs() -> None:
        for patch in patches:
            measure(classical_cells(patch, HS_DIAMETER_PX))

    seconds, n = in_turn({"ours": ours, "theirs": theirs}, PAIRS), len(patches)
    # Of pairs a few seconds apart: a machine shared with others is slower by half at times.
    low, ratio, high = statistics.quantiles(np.divide(seconds["ours"], seconds["theirs"]).tolist(), n=4)
    yield "Otsu + watershed + regionprops, a tile of 512×512", f"{statistics.median(seconds['theirs']) / n:.3f} s", ""
    yield f"embedded model, segment, a tile of the same {n}", f"{statistics.median(seconds['ours']) / n:.3f} s", ""
    yield f"embedded / classical time, median (quartiles) of {PAIRS} pairs", f"{ratio:.2f} ({low:.2f}, {high:.2f})", "2"


def typing(data: Path) -> Iterator[Row]:
    """Cells typed per second, cutouts included."""
    slide = _slide(data)
    segmentation = nb.segment(slide, params=nb.SegmentParams(rbc_diameter_px=HS_DIAMETER_PX))
    classifier = load_classifier()
    seconds = side_by_side({"ours": lambda: classify(slide, segmentation, classifier=classifier)}, 5)["ours"]
    yield "cells typed per second, cutouts included", f"{len(segmentation.table) / seconds:.0f}", "3000"


def tile_sizes(data: Path) -> Iterator[Row]:
    """Segment the same slide in tiles of several sizes, one process with all threads."""
    slide = _slide(data)
    megapixels = slide.shape[0] * slide.shape[1] / 1e6

    def segmenting(size: int) -> Callable[[], Any]:
        return lambda: nb.segment(slide, params=nb.SegmentParams(tile_size=size))

    seconds = side_by_side({str(size): segmenting(size) for size in (512, 1024, 2048)}, 2)
    for size, took in seconds.items():
        yield f"segmenting that slide, `tile_size` {size}, one process", f"{megapixels / took:.2f} megapixels/s", ""


def counting(_: Path) -> Iterator[Row]:
    """Count a million cells."""
    import pandas as pd

    rng = np.random.default_rng(0)
    n = 1_000_000
    area = rng.normal(900, 90, n).clip(100) * rng.choice([1, 2, 3], n, p=[0.93, 0.05, 0.02])
    table = pd.DataFrame({"cell_type": "RBC", "area_px": area, "touches_edge": False})
    seconds = side_by_side({"ours": lambda: nb.count(table)}, 5)["ours"]
    yield "counting 1,000,000 cells", f"{seconds:.2f} s", "0.5 s"


def start(data: Path) -> Iterator[Row]:
    """From the command to the help, and to the first tile's cells."""
    helps, firsts = [], []
    code = (
        "import time, sys; begin = float(sys.argv[2]); import napari_bloodcell as nb\n"
        "for step in nb.iter_analyse(sys.argv[1]):\n"
        "    if step.what == 'tiles': print(time.time() - begin); break\n"
    )
    image = tile_paths(data, "HS1", 1)[0]
    for _ in range(5):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "napari_bloodcell", "--help"], check=True, capture_output=True)
        helps.append(time.perf_counter() - begin)
        done = subprocess.run(
            [sys.executable, "-c", code, str(image), str(time.time())], check=True, capture_output=True, text=True
        )
        firsts.append(float(done.stdout))
    yield "`napari-bloodcell --help`", f"{statistics.median(helps):.2f} s", "0.4 s"
    yield "first tile's cells after the command, imports included", f"{statistics.median(firsts):.1f} s", "4 s"


def stock(data: Path, side: int = 32) -> Iterator[Row]:
    """SAM's own generator with ViT-B against the embedded model, and against ours with the same ViT-B."""
    from benchmarks.stock_sam import stock_generator

    image = tiles(data, "HS1", 8)[3]
    torch.manual_seed(0)
    sam = build_sam.build_sam_vit_b().eval().requires_grad_(False)
    calibration = Calibration(HS_DIAMETER_PX, _glass(image), 200.0, "given")
    embedded_sam = load_generator("embedded")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "vit_b.pth"
        torch.save(sam.state_dict(), path)
        ours = OfficialSam(path)
    # Weights that nobody trained give no masks worth keeping, so the thresholds let through what a trained one gives.
    params = nb.SegmentParams(points_per_side=side, predicted_iou_min=0.88, stability_min=0.95)
    generator = stock_generator(sam, points_per_side=side)
    seconds = {}
    for name, function in {
        "embedded": lambda: embedded_sam.generate(image, calibration, nb.SegmentParams()),
        "ours": lambda: ours.generate(image, calibration, params),
        "stock": lambda: generator.generate(image),
        "embedded again": lambda: embedded_sam.generate(image, calibration, nb.SegmentParams()),
    }.items():
        begin = time.perf_counter()
        function()
        seconds[name] = time.perf_counter() - begin
    yield f"SAM's generator, ViT-B, {side}×{side} points, one tile of 512×512", f"{seconds['stock']:.1f} s", ""
    yield "ours, the same ViT-B, prompts at cells", f"{seconds['ours']:.1f} s", ""
    yield "ours with the same ViT-B, times as fast", f"{seconds['stock'] / seconds['ours']:.1f}", "8"
    yield "embedded model, the same tile", f"{seconds['embedded again']:.3f} s", ""
    yield "embedded model, times as fast", f"{seconds['stock'] / seconds['embedded again']:.0f}", "500"


def _glass(image: NDArray[np.uint8]) -> tuple[float, float, float]:
    red, green, blue = (float(v) for v in background_colour(image))
    return red, green, blue


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=[s for s in SECTIONS if s != "stock"])
    args = parser.parse_args(arguments)
    out = sys.stdout
    out.write(f"{machine()}\n\n| measure | value | wanted |\n|---|---|---|\n")
    for name in args.only:
        for row in globals()[name](args.data):
            out.write("| " + " | ".join(row) + " |\n")
            out.flush()


if __name__ == "__main__":
    main()
