"""Thousands of wrong inputs: `python -m benchmarks.fuzz --inputs 500`.

Each kind of `benchmarks.fuzzing` is tried with so many seeds. Every input must give a result or an error of the
program's own type; what else happens is printed with the seed that does it again (`--kind "recipes" --seed 17`).
Prints a Markdown table of inputs tried and failures. Memory is limited, so that a file that claims to be huge fails.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import logging
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.fuzzing import KINDS
from benchmarks.fuzzing.disks import use_full_disk, use_read_only_disk
from napari_bloodcell.core.errors import BloodCellError

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS_PER_INPUT = 120
DISKS: dict[str, Callable[[np.random.Generator, Path], object]] = {
    "full disks": use_full_disk,
    "read-only disks": use_read_only_disk,
}
"""They mount small disks, which only root may."""


def attempt(kind: Callable[[np.random.Generator, Path], object], seed: int) -> tuple[str, str]:
    """Use one input and return ("result" or "error" or "failure", what was said)."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    said = io.StringIO()
    signal.alarm(SECONDS_PER_INPUT)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            warnings.simplefilter("ignore")
            kind(np.random.default_rng(seed), folder)
    except BloodCellError as error:
        message = str(error)
        if not message or "Traceback" in message or len(message) > 20_000:
            return "failure", f"the message is {message[:200]!r}"
        return "error", message
    except (Exception, SystemExit):  # noqa: BLE001 - this is what is looked for
        return "failure", traceback.format_exc()
    finally:
        signal.alarm(0)
        shutil.rmtree(folder, ignore_errors=True)
    if "Traceback" in said.getvalue():
        return "failure", said.getvalue()
    return "result", ""


def _too_slow(*_: Any) -> None:
    raise RuntimeError(f"this took more than {SECONDS_PER_INPUT} s")


def main() -> None:
    """Print the table; the exit code is 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=500, help="of each kind")
    parser.add_argument("--kind", nargs="+", choices=[*KINDS, *DISKS], help="only these")
    parser.add_argument("--seed", type=int, default=0, help="of the first input of each kind")
    parser.add_argument("--memory-gb", type=float, default=12.0)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (int(arguments.memory_gb * 2**30), resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, _too_slow)
    print(
        "| input | tried | results | errors of the program | failures | seconds |\n|---|---|---|---|---|---|",
        flush=True,
    )
    failures: list[str] = []
    everything = KINDS | DISKS
    for name in arguments.kind or everything:
        start = time.monotonic()
        counted: collections.Counter[str] = collections.Counter()
        for seed in range(arguments.seed, arguments.seed + arguments.inputs):
            outcome, said = attempt(everything[name], seed)
            counted[outcome] += 1
            if outcome == "failure":
                failures.append(f'--kind "{name}" --seed {seed} --inputs 1\n{said}')
                sys.stderr.write(f"\n{failures[-1]}\n")
        numbers = [sum(counted.values()), counted["result"], counted["error"], counted["failure"]]
        print(f"| {name} | {' | '.join(f'{n:,}' for n in numbers)} | {time.monotonic() - start:.0f} |", flush=True)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
