"""Whole slides: time, memory, workers, resume: `python -m benchmarks.scale --side 10240 40960`.

Makes a slide by tiling a smear (the one that ships with the program, or `--smear FILE`), analyses it in a process of
its own for each row of the table, and prints a Markdown table with the ratios that matter. What was measured is kept in
the output folder and not measured again: `--steps area`, `workers`, `resume`, `open` can be run one after the other,
and smaller sides give the same ratios. `--fake` takes a threshold for the network: what the machinery costs.
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
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 512
STEPS = ("area", "workers", "resume", "open")


def make_slide(path: Path, smear: Path | None, side: int) -> None:
    """Write a square slide, a smear laid side by side, as a plain Zarr array without holding it."""
    if smear is None:
        from napari_bloodcell.synthetic import load_shipped

        piece = load_shipped()[0]
    else:
        from napari_bloodcell.images.open import read_plane

        piece = read_plane(smear).data
    stored = zarr.create_array(path, shape=(side, side, 3), chunks=(CHUNK, CHUNK, 3), dtype=np.uint8)
    columns = np.arange(side) % piece.shape[1]
    for y in range(0, side, CHUNK):
        rows = np.arange(y, min(y + CHUNK, side)) % piece.shape[0]
        stored[y : y + CHUNK] = piece[rows[:, None], columns[None, :]]


def analyse(arguments: argparse.Namespace) -> None:
    """Analyse a slide in this process and print what it took as JSON."""
    import napari_bloodcell as nb
    from napari_bloodcell.core.progress import drain
    from napari_bloodcell.slides.run import iter_analyse_slide

    models: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    if arguments.fake:
        from tests.fakes import BrightnessClassifier, ThresholdGenerator

        models = {"generator": ThresholdGenerator(threshold=195), "classifier": BrightnessClassifier()}
        settings = {"rbc_diameter_px": 36.0}
    if arguments.cores:
        os.environ["OMP_NUM_THREADS"] = str(arguments.cores)
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    _started(arguments.output).write_text(str(time.time()))
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
    """Open a result in napari, in a window where there is a display, and print what it took until it is drawn."""
    import napari
    from napari.components import ViewerModel

    import napari_bloodcell as nb

    has_window = bool(os.environ.get("DISPLAY"))
    viewer: Any = napari.Viewer() if has_window else ViewerModel()
    viewer.add_labels(np.zeros((8, 8), np.int32))  # what napari itself takes for a first layer
    viewer.layers.clear()
    if has_window:
        viewer.screenshot(canvas_only=False, flash=False)
    before = int(_status("self")["VmRSS"].split()[0])
    start, cpu = time.perf_counter(), time.process_time()
    nb.napari.open_result(arguments.output, viewer)
    if has_window:
        viewer.screenshot(canvas_only=False, flash=False)
    else:
        for layer in viewer.layers:
            np.asarray(layer.data[-1][...] if layer.multiscale else layer.data)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    found = {"seconds": seconds, "cpu": cpu, "more_gb": (int(_status("self")["VmRSS"].split()[0]) - before) / 2**20}
    where = "in a window" if has_window else "without a window"
    sys.stdout.write(json.dumps({**found, "napari": napari.__version__, "where": where}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # no window is taken down that is not looked at any more


def _status(process: str) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _call(verb: str, slide: Path, output: Path, *options: str, kill_at: float | None = None) -> dict[str, Any]:
    """Run this file in a process of its own; kill it when this share of the tiles is done."""
    command = [sys.executable, "-m", "benchmarks.scale", verb, "--slide", str(slide), "--output", str(output), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    if kill_at is not None:
        seconds = _kill(process, output, kill_at)
        if seconds is not None:
            return {"seconds": seconds}
        raise SystemExit("It was done before it could be killed: use a larger side.")
    text, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return dict(json.loads(text.splitlines()[-1]))


def _kill(process: subprocess.Popen[str], output: Path, share: float) -> float | None:
    """Kill an analysis when a share of its tiles is done, and return how long it took, without Python's start."""
    from napari_bloodcell.slides.work import WorkFolder

    while process.poll() is None:
        time.sleep(0.05)
        plan = WorkFolder(output).read_plan()
        if plan is not None and len(list((output / "work" / "tiles").glob("*/*.npz"))) >= share * plan.n_tiles:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return time.time() - float(_started(output).read_text())
    return None


def _started(output: Path) -> Path:
    return output.with_name(f"{output.name}.started")


class Figures:
    """What was measured, kept in a file, so that a benchmark can be run in parts."""

    def __init__(self, folder: Path, *, fake: bool, again: bool) -> None:
        self._path = folder / ("figures-fake.json" if fake else "figures.json")
        self._again = again
        self.known: dict[str, dict[str, Any]] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def measure(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return a figure: the known one, or measured now."""
        if self._again or name not in self.known:
            self.known[name] = measure()
            self._path.write_text(json.dumps(self.known, indent=1))
        return self.known[name]

    def seconds(self, *names: str) -> float | None:
        """Return the sum of some times, or None where one is not known."""
        return sum(self.known[n]["seconds"] for n in names) if all(n in self.known for n in names) else None


def run_steps(arguments: argparse.Namespace, figures: Figures) -> None:
    """Measure what was asked for and is not known yet, printing a row for each."""
    folder: Path = arguments.output
    fake = ["--fake"] if arguments.fake else []
    tag = "-fake" if arguments.fake else ""
    small, large = min(arguments.side), max(arguments.side)

    def slide_of(side: int) -> Path:
        path = folder / f"{side}.zarr"
        if not (folder / f"{side}.made").exists():
            shutil.rmtree(path, ignore_errors=True)
            make_slide(path, arguments.smear, side)
            (folder / f"{side}.made").touch()
        return path

    def analysed(side: int, name: str, *options: str) -> dict[str, Any]:
        output = folder / f"{side}{tag}-{name}"
        shutil.rmtree(output, ignore_errors=True)
        return _call("analyse", slide_of(side), output, *fake, *options)

    def killed() -> dict[str, Any]:
        shutil.rmtree(folder / f"{small}{tag}-killed", ignore_errors=True)
        return _call("analyse", slide_of(small), folder / f"{small}{tag}-killed", *fake, kill_at=0.5)

    if "area" in arguments.steps:
        for side in arguments.side:
            _row(f"{side}²", figures.measure(f"{side}", lambda side=side: analysed(side, "one")))
    if "workers" in arguments.steps:
        for n in (1, 2):
            options = ("--workers", str(n), "--cores", str(n))
            found = figures.measure(f"{small} workers {n}", lambda n=n, o=options: analysed(small, f"workers{n}", *o))
            _row(f"{small}², {n} worker(s) on {n} core(s)", found)
    if "resume" in arguments.steps:
        name = f"{small} killed"
        if name not in figures.known or arguments.again:
            first = killed()
            second = _call("analyse", slide_of(small), folder / f"{small}{tag}-killed", *fake)
            figures.measure(name, lambda: {**second, "seconds": first["seconds"] + second["seconds"]})
        figures.measure(f"{small}", lambda: analysed(small, "one"))
        _row(f"{small}², killed at 50 % and gone on with", figures.known[name])
    if "open" in arguments.steps:
        output = folder / f"{large}{tag}-one"
        opened = figures.measure(f"{large} opened", lambda: _call("open", slide_of(large), output))
        took = f"{opened['seconds']:.1f} | {opened['cpu']:.1f} | {opened['more_gb']:.2f} more"
        _write(f"| {large}² opened in napari {opened['napari']} ({opened['where']}) | {took} | |\n")


def print_ratios(sides: list[int], figures: Figures) -> None:
    """Print what was measured beside what it must be."""
    small, large = min(sides), max(sides)
    known = figures.known
    _write("\n")
    if small != large and f"{small}" in known and f"{large}" in known:
        area = (large / small) ** 2
        a, b = known[f"{small}"], known[f"{large}"]
        _write(
            f"- {area:.4g} × the area takes {b['seconds'] / a['seconds']:.2f} × the time (at most {1.1 * area:.4g}), "
        )
        _write(f"{b['cpu'] / a['cpu']:.2f} × the processor time, {b['peak_gb'] / a['peak_gb']:.2f} × the memory ")
        _write("(at most 1.3)\n")
    one, two = figures.seconds(f"{small} workers 1"), figures.seconds(f"{small} workers 2")
    if one and two:
        _write(f"- two workers on two cores are {one / two:.2f} × as fast as one on one core (at least 1.7)\n")
    whole, resumed = figures.seconds(f"{small}"), figures.seconds(f"{small} killed")
    if whole and resumed:
        _write(f"- killed and resumed takes {100 * (resumed / whole - 1):+.1f} % (at most +5 %)\n")
    if f"{large} opened" in known:
        opened = known[f"{large} opened"]
        _write(f"- opened in {opened['seconds']:.1f} s (below 3) with {opened['more_gb']:.2f} GB more (below 1)\n")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", nargs="?", default="table", choices=["table", "analyse", "open"])
    parser.add_argument("--side", type=int, nargs="+", default=[10240, 40960])
    parser.add_argument("--steps", nargs="*", default=list(STEPS), choices=STEPS, help="what is measured")
    parser.add_argument("--again", action="store_true", help="measure what is known already, too")
    parser.add_argument("--smear", type=Path)
    parser.add_argument("--fake", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cores", type=int)
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--output", type=Path, default=Path("scale-benchmark"))
    arguments = parser.parse_args()
    if arguments.verb != "table":
        (analyse if arguments.verb == "analyse" else open_in_napari)(arguments)
        return
    arguments.output.mkdir(parents=True, exist_ok=True)
    figures = Figures(arguments.output, fake=arguments.fake, again=arguments.again)
    _write(f"{'A threshold for the network' if arguments.fake else 'The embedded SAM'}\n\n")
    _write("| what | seconds | processor seconds | peak GB | cells |\n|---|---|---|---|---|\n")
    run_steps(arguments, figures)
    print_ratios(arguments.side, figures)


def _row(what: str, found: dict[str, Any]) -> None:
    cells = sum(found["counts"].values())
    _write(f"| {what} | {found['seconds']:.1f} | {found['cpu']:.1f} | {found['peak_gb']:.2f} | {cells:,} |\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
