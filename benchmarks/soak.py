"""Hours of batch: does memory or a file handle leak? `python -m benchmarks.soak --data ../shared/data --hours 2`.

Runs `napari-bloodcell analyse` in one process over real fields of all data sets, mixed and repeated under new names,
and measures that process each time an image is done: a row in samples.csv. Prints the slopes by least squares after a
warm-up; `--report samples.csv` prints them for a run that is still going or was stopped.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil

SETS = ("txl_pbc/images/*/*", "smears/HS1/images/*.jpg", "smears/HS2/images/*.jpg", "chula/images/*")
LEAST_OF = 10
ROW = ("image", "hours", "rss_mb", "handles", "threads", "cpu_seconds")


def lay_out(data: Path, folder: Path, n_images: int) -> None:
    """Link or copy fields of all sets in turn into a folder, each under a name of its own."""
    draw = random.Random(0)
    sets = [sorted(data.glob(pattern)) for pattern in SETS]
    if not all(sets):
        raise SystemExit(f"{data} lacks images of {[p for p, s in zip(SETS, sets, strict=True) if not s]}")
    folder.mkdir(parents=True)
    for number in range(n_images):
        source = draw.choice(sets[number % len(sets)])
        target = folder / f"{number:05d}_{source.name}"
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)


def soak(data: Path, output: Path, hours: float, n_images: int) -> int:
    """Run the batch for so long, writing samples.csv, and return its exit code."""
    lay_out(data, output / "images", n_images)
    results, start = output / "results", time.monotonic()
    command = [sys.executable, "-m", "napari_bloodcell", "analyse", str(output / "images"), "-o", str(results), "-q"]
    with (output / "log.txt").open("w", encoding="utf-8") as log:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it is ignored
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        signal.signal(signal.SIGINT, before)
    watched, n_done, last = psutil.Process(process.pid), 0, ""
    with (output / "samples.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(ROW)
        while process.poll() is None and time.monotonic() - start < hours * 3600:
            time.sleep(0.05)
            try:
                stamp = str((results / "summary.csv").stat().st_mtime_ns)
            except OSError:
                continue
            if stamp == last:
                continue
            last, n_done = stamp, n_done + 1
            try:
                with watched.oneshot():
                    used = watched.cpu_times()
                    rss, handles, threads = watched.memory_info().rss, watched.num_fds(), watched.num_threads()
            except psutil.NoSuchProcess:
                break
            passed = (time.monotonic() - start) / 3600
            row = (n_done, f"{passed:.4f}", f"{rss / 2**20:.2f}", handles, threads, f"{used.user + used.system:.1f}")
            writer.writerow(row)
            file.flush()
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    return process.wait()


def slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return the slope of a line by least squares and its standard error."""
    dx = x - x.mean()
    value = float((dx * y).sum() / (dx * dx).sum())
    residuals = y - y.mean() - value * dx
    return value, float(np.sqrt((residuals**2).sum() / (len(x) - 2) / (dx * dx).sum()))


def report(samples: Path, warm_up: int) -> None:
    """Print a Markdown table of the slopes."""
    with samples.open(newline="", encoding="utf-8") as file:
        rows = np.array([[float(row[name]) for name in ROW] for row in csv.DictReader(file)])
    after = rows[rows[:, 0] > warm_up]
    if len(after) < 10:
        raise SystemExit(f"{len(rows)} images are done; at least {warm_up + 10} are needed")
    print(f"{len(rows):,} images in {rows[-1, 1]:.2f} h; the first {warm_up} are the warm-up\n")
    print("| of the process | after the warm-up | at the end | largest | slope per 100 images (± standard error) |")
    print("|---|---|---|---|---|")
    n = len(after) // LEAST_OF * LEAST_OF
    least = after[:n].reshape(-1, LEAST_OF, len(ROW)).min(1)  # memory in use between images, whatever else was seen
    what = {"memory, MB": (after, "rss_mb"), f"memory, MB, least of {LEAST_OF} images": (least, "rss_mb")}
    what |= {"file handles": (after, "handles"), "threads": (after, "threads")}
    for unit, (seen, name) in what.items():
        y = seen[:, ROW.index(name)]
        value, error = slope(seen[:, 0] / 100, y)
        first, last = np.median(y[: len(y) // 5 or 1]), np.median(y[-(len(y) // 5 or 1) :])
        print(f"| {unit} | {first:.0f} | {last:.0f} | {y.max():.0f} | {value:+.3f} ± {error:.3f} |")


def main() -> None:
    """Soak, or report on a soak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with txl_pbc, smears and chula")
    parser.add_argument("--output", type=Path, default=Path("soak"))
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--images", type=int, default=8000, help="how many are laid out")
    parser.add_argument("--warm-up", type=int, default=100)
    parser.add_argument("--report", type=Path, help="samples.csv of a run")
    arguments = parser.parse_args()
    if arguments.report is None:
        if arguments.data is None:
            parser.error("--data is needed")
        code = soak(arguments.data, arguments.output, arguments.hours, arguments.images)
        print(f"exit code of the batch: {code}")
    report(arguments.report or arguments.output / "samples.csv", arguments.warm_up)


if __name__ == "__main__":
    main()
