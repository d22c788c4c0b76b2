"""Whole slides: time, memory, workers, resume: `python -m benchmarks.scale --side 10240 40960 --fake`.

Makes a slide by tiling a smear (the one that ships with the program, or `--smear FILE`), analyses it in a process of
its own for each row of the table, and prints a Markdown table. `--fake` takes a threshold for the network, which shows
what the machinery costs; with the real one 40,960² takes about 40 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import zarr

CHUNK = 512


def make_slide(path: Path, smear: Path | None, side: int) -> None:
    """Write a square slide, a smear laid side by side, as a plain Zarr array without holding it."""
    if smear is None:
        from napari_bloodcell.synthetic import load_shipped

        piece = load_shipped()[0]
    else:
        from napari_bloodcell.smear import read_plane

        piece = read_plane(smear).data
    stored = zarr.create_array(path, shape=(side, side, 3), chunks=(CHUNK, CHUNK, 3), dtype=np.uint8)
    columns = np.arange(side) % piece.shape[1]
    for y in range(0, side, CHUNK):
        rows = np.arange(y, min(y + CHUNK, side)) % piece.shape[0]
        stored[y : y + CHUNK] = piece[rows[:, None], columns[None, :]]


def analyse(arguments: argparse.Namespace) -> None:
    """Analyse a slide in this process and print what it took as JSON."""
    import napari_bloodcell as nb
    from napari_bloodcell.progress import drain
    from napari_bloodcell.slides.run import iter_analyse_slide

    models: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    if arguments.fake:
        from tests.fakes import BrightnessClassifier, ThresholdGenerator

        models = {"generator": ThresholdGenerator(threshold=195), "classifier": BrightnessClassifier()}
        settings = {"rbc_diameter_px": 36.0}
    start = time.perf_counter()
    result = drain(
        iter_analyse_slide(
            arguments.slide,
            arguments.output,
            recipe=nb.Recipe(segment=nb.SegmentParams(**settings)),
            workers=arguments.workers,
            **models,
        )
    )
    seconds = time.perf_counter() - start
    peak = int(next(v for k, v in _status("self").items() if k == "VmHWM").split()[0]) / 2**20
    sys.stdout.write(
        json.dumps({"seconds": seconds, "cpu": sum(os.times()[:4]), "peak_gb": peak, "counts": result.counts}) + "\n"
    )


def open_in_napari(arguments: argparse.Namespace) -> None:
    """Open a result in a viewer model, read what a window would draw first, and print what it took as JSON."""
    import napari
    from napari.components import ViewerModel

    import napari_bloodcell as nb

    viewer = ViewerModel()
    viewer.add_labels(np.zeros((8, 8), np.int32))  # what napari itself takes for a first layer
    viewer.layers.clear()
    before = int(_status("self")["VmRSS"].split()[0])
    start, cpu = time.perf_counter(), time.process_time()
    nb.napari.open_result(arguments.output, viewer)
    for layer in viewer.layers:
        np.asarray(layer.data[-1][...] if layer.multiscale else layer.data)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    more = (int(_status("self")["VmRSS"].split()[0]) - before) / 2**20
    sys.stdout.write(json.dumps({"seconds": seconds, "cpu": cpu, "more_gb": more, "napari": napari.__version__}) + "\n")


def _status(process: str) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _call(verb: str, slide: Path, output: Path, *options: str, stop_at: float | None = None) -> dict[str, Any]:
    """Run this file in a process of its own; kill it when this share of the tiles is done."""
    command = [sys.executable, "-m", "benchmarks.scale", verb, "--slide", str(slide), "--output", str(output), *options]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    if stop_at is not None:
        while process.poll() is None:
            time.sleep(0.2)
            plan = output / "work" / "plan.json"
            if plan.exists() and len(list((output / "work" / "tiles").glob("*/*.npz"))) >= stop_at:
                os.kill(process.pid, signal.SIGKILL)
                break
        process.wait()
        return {"seconds": time.perf_counter() - start}
    text, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return dict(json.loads(text.splitlines()[-1]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", nargs="?", default="table", choices=["table", "analyse", "open"])
    parser.add_argument("--side", type=int, nargs="+", default=[10240, 40960])
    parser.add_argument("--smear", type=Path)
    parser.add_argument("--fake", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--skip", nargs="*", default=[], choices=["workers", "resume", "open"])
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--output", type=Path, default=Path("scale-benchmark"))
    arguments = parser.parse_args()
    if arguments.verb == "analyse":
        analyse(arguments)
        return
    if arguments.verb == "open":
        open_in_napari(arguments)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    fake = ["--fake"] if arguments.fake else []
    out = sys.stdout
    out.write(f"{'A threshold for the network' if fake else 'The embedded SAM'}, one thread a process\n\n")
    out.write("| what | seconds | processor seconds | peak GB | cells |\n|---|---|---|---|---|\n")
    folder: Path = arguments.output
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for side in arguments.side:
        make_slide(folder / f"{side}.zarr", arguments.smear, side)
        one = _call("analyse", folder / f"{side}.zarr", folder / f"{side}", *fake)
        _row(f"{side}², one process", one)
    side = arguments.side[0]
    slide = folder / f"{side}.zarr"
    if "workers" not in arguments.skip:
        for n in (1, 2):
            found = _call("analyse", slide, folder / f"{side}_{n}", *fake, "--workers", str(n))
            _row(f"{side}², {n} worker(s)", found)
    if "resume" not in arguments.skip:
        n_tiles = (-(-side // 512)) ** 2
        first = _call("analyse", slide, folder / "killed", *fake, stop_at=n_tiles / 2)
        second = _call("analyse", slide, folder / "killed", *fake)
        _row(f"{side}², killed at 50 % ({first['seconds']:.0f} s with its start), then gone on with", second)
    if "open" not in arguments.skip:
        side = arguments.side[-1]
        opened = _call("open", folder / f"{side}.zarr", folder / f"{side}")
        took = f"{opened['seconds']:.1f} | {opened['cpu']:.1f} | {opened['more_gb']:.2f} more"
        out.write(f"| {side}² opened in napari | {took} | |\n")


def _row(what: str, found: dict[str, Any]) -> None:
    cells = sum(found["counts"].values())
    sys.stdout.write(f"| {what} | {found['seconds']:.1f} | {found['cpu']:.1f} | {found['peak_gb']:.2f} | {cells:,} |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
