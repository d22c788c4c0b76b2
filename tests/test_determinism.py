"""The same recipe gives the same table, byte for byte, with any number of threads and of workers."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray


def analysed(folder: Path, name: str, *flags: str, threads: int) -> bytes:
    """Return ``cells.csv`` of the smear in a folder, from a process of its own with the program's own models."""
    command = [sys.executable, "-m", "napari_bloodcell", "analyse", "smear.png", "-o", name, "-q", "--tile-size", "256"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command += ["--no-overlay", "--no-kde", *flags]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return (folder / name / "smear" / "cells.csv").read_bytes()


@pytest.mark.slow
def test_threads_and_workers_do_not_change_a_byte_of_the_table(
    tmp_path: Path, shipped: tuple[NDArray[np.uint8], object]
) -> None:
    Image.fromarray(shipped[0][:500, :600]).save(tmp_path / "smear.png")
    one = analysed(tmp_path, "one", threads=1)
    assert one.count(b"\n") > 20
    assert analysed(tmp_path, "two threads", threads=2) == one
    assert analysed(tmp_path, "two workers", "--workers", "2", threads=1) == one
