"""Wrong inputs of every kind of `benchmarks.fuzzing`: each gives a result or an error of the program's own type."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import shlex
import signal
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.fuzz import attempt
from benchmarks.fuzzing import KINDS
from benchmarks.fuzzing.images import check_output, check_plane
from benchmarks.fuzzing.models import bomb
from benchmarks.fuzzing.records import IMAGE, small_result, write_small_result
from napari_bloodcell.cli import batch, console, folders
from napari_bloodcell.cli import main as cli
from napari_bloodcell.core import files
from napari_bloodcell.core.cells import box_of
from napari_bloodcell.core.errors import InputError, ModelError, OutputError
from napari_bloodcell.corrections.journal import Correction, Journal
from napari_bloodcell.images.open import is_slide, open_slide, read_plane
from napari_bloodcell.models.load import load_classifier, load_generator
from napari_bloodcell.results.store import read_result, write_result
from tests.fakes import BrightnessClassifier, ThresholdGenerator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SLOW = {"batches of files": 4, "analysed arrays": 10, "OME-Zarr": 12, "work folders": 8, "SAM checkpoints": 15}
"""Inputs tried of kinds that take long; of the others 40."""


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_input_gives_a_result_or_an_error_of_the_program(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    before = signal.alarm(0)
    try:
        found = [(seed, *attempt(KINDS[kind], seed)) for seed in range(10_000, 10_000 + SLOW.get(kind, 40))]
    finally:
        signal.alarm(before)
    failed = [f'--kind "{kind}" --seed {seed}: {said[-3000:]}' for seed, what, said in found if what == "failure"]
    assert not failed, failed[0]


def test_the_search_for_failures_finds_one() -> None:
    def broken(_rng: np.random.Generator, _folder: Path) -> object:
        raise ZeroDivisionError

    assert attempt(broken, 0)[0] == "failure"


shapes = st.lists(st.integers(0, 9), max_size=5).map(tuple)
dtypes = st.sampled_from(["?", "u1", "i1", "u2", ">u2", "i4", "u8", "f2", "f4", "f8", "c8", "O", "U2", "M8[s]"])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=shapes, dtype=dtypes, fill=st.floats(width=32) | st.integers(-(2**31), 2**31))
@pytest.mark.filterwarnings("ignore")
def test_any_array_is_a_plane_or_an_input_error(shape: tuple[int, ...], dtype: str, fill: float) -> None:
    kind = np.dtype(dtype).kind
    array = np.zeros(shape, dtype)
    if kind in "iufb":
        with np.errstate(all="ignore"):
            array = np.full(shape, fill if np.isfinite(fill) or kind == "f" else 0.0).astype(dtype)
    with contextlib.suppress(InputError):
        check_plane(read_plane(array))


def test_a_tiff_that_claims_to_be_huge_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tif"
    zeros = np.zeros((64, 64, 3), np.uint8)
    tifffile.imwrite(path, zeros, compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        for tag in ("ImageWidth", "ImageLength"):
            file.pages.first.tags[tag].overwrite(60_000)
    for read in (read_plane, open_slide):
        with pytest.raises(InputError, match="described as larger than it is"):
            read(path)


@pytest.mark.parametrize("name", ["a" * 5000, "nul\0", "half \ud800 of a character"])
def test_names_that_no_file_can_have_are_refused(name: str, tmp_path: Path) -> None:
    for read in (read_plane, open_slide, is_slide):
        with pytest.raises(InputError):
            read(tmp_path / name)
    for load in (load_generator, load_classifier):
        with pytest.raises(ModelError):
            load(str(tmp_path / f"{name}.safetensors"))
    images, refused = folders.collect([name])
    assert (images, list(refused)) == ([], [name])


def test_a_checkpoint_that_is_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    bomb(path, "data.pkl", 2**25)
    assert path.stat().st_size < 2**25 / 500
    assert zipfile.is_zipfile(path)
    with pytest.raises(ModelError, match="compressed"):
        load_generator(str(path), "cpu")


# --- full disks ------------------------------------------------------------------------------------------------------


@pytest.fixture
def files_up_to() -> Iterator[object]:
    """Give a function after which no file can grow beyond so many bytes: a full disk, without a disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda n: resource.setrlimit(resource.RLIMIT_FSIZE, (n, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("room", [0, 100, 900])
@pytest.mark.parametrize("label_format", ["tiff", "ome-zarr"])
def test_on_a_full_disk_the_earlier_result_stays_and_nothing_half_written(
    tmp_path: Path, files_up_to, room: int, label_format: str
) -> None:
    image, result = small_result()
    write_small_result(tmp_path / "out")
    before = read_result(tmp_path / "out")
    files_up_to(room)
    with pytest.raises(OutputError, match=r"cannot be written|written to"):
        write_result(result, tmp_path / "out", image=image, label_format=label_format)
    files_up_to(resource.RLIM_INFINITY)
    assert read_result(tmp_path / "out").table.equals(before.table)
    check_output(tmp_path)


def test_a_batch_on_a_full_disk_says_so_in_a_line(
    tmp_path: Path, files_up_to, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = batch.Models(ThresholdGenerator(), BrightnessClassifier())
    monkeypatch.setattr(batch, "load_models", lambda *_, **__: models)
    (tmp_path / "in").mkdir()
    Image.fromarray(small_result()[0]).save(tmp_path / "in" / "a.png")
    (tmp_path / "out").mkdir()
    files_up_to(400)
    code = cli.main(["analyse", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-q"])
    files_up_to(resource.RLIM_INFINITY)
    assert code == cli.SOME_FAILED
    said = capsys.readouterr().err
    assert os.strerror(errno.EFBIG) in said
    assert "Traceback" not in said
    assert not list((tmp_path / "out").rglob("recipe.json"))


def test_a_correction_that_does_not_fit_on_the_disk_leaves_the_journal_as_it_was(tmp_path: Path, files_up_to) -> None:
    cells, table = small_result()[1].cells, small_result()[1].table
    what = {"from_type": "", "to_type": "WBC", "annotator": "a", "image_sha256": IMAGE}
    correction = Correction.of_cell(cells, 1, box_of(table, table.index[0]), **what)
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(correction)
    before = journal.path.read_bytes()
    files_up_to(len(before) + 20)
    with pytest.raises(OutputError):
        journal.append(correction.undo())
    files_up_to(resource.RLIM_INFINITY)
    assert journal.path.read_bytes() == before


# --- what a user sees ------------------------------------------------------------------------------------------------


def test_a_fault_is_a_line_and_a_traceback_on_demand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fault(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of nothing\n  at all.")

    Image.fromarray(small_result()[0]).save(tmp_path / "a.png")
    monkeypatch.setattr(batch, "load_models", fault)
    arguments = ["analyse", str(tmp_path / "a.png"), "-o", str(tmp_path / "out")]
    assert cli.main(arguments) == cli.SOME_FAILED
    said = capsys.readouterr().err
    assert said.startswith("napari-bloodcell: error: ZeroDivisionError: of nothing at all. This is a fault")
    assert said.count("\n") == 1
    monkeypatch.setenv(console.TRACEBACK_VARIABLE, "1")
    assert cli.main(arguments) == cli.SOME_FAILED
    assert "Traceback" in capsys.readouterr().err


def test_a_model_that_fails_is_a_line_and_a_traceback_on_demand(tmp_path: Path) -> None:
    Image.fromarray(small_result()[0]).save(tmp_path / "a.png")
    script = tmp_path / "broken_model.py"
    script.write_text(
        "import sys\n"
        "from napari_bloodcell.cli import main as cli\n"
        "from napari_bloodcell.models.embedded.sam import EmbeddedSam\n"
        "def generate(*_, **__):\n"
        "    raise RuntimeError('mat1 and mat2\\ncannot be multiplied')\n"
        "EmbeddedSam.generate = generate\n"
        "sys.exit(cli.main())\n"
    )
    command = [sys.executable, str(script), "analyse", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "-q"]
    plain = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert plain.returncode == cli.SOME_FAILED
    assert "RuntimeError: mat1 and mat2 cannot be multiplied" in plain.stderr
    assert "Traceback" not in plain.stderr
    wanted = {**os.environ, console.TRACEBACK_VARIABLE: "1"}
    told = subprocess.run(command, capture_output=True, text=True, timeout=300, env=wanted)
    assert "Traceback" in told.stderr
    assert "cannot be multiplied" in told.stderr


def test_a_reader_that_went_away_ends_the_program_in_silence() -> None:
    command = f"{shlex.quote(sys.executable)} -m napari_bloodcell models list | true"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert ended.stderr == ""


def test_what_cannot_be_written_is_named_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"there is.*No space left"), files.writing(tmp_path / "there is"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--rbc-diameter-px", 2), ("--rbc-diameter-px", 5000), ("--pixel-size-um", 50), ("--pixel-size-um", 0.0001)],
)
def test_a_size_that_no_smear_has_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, value: float
) -> None:
    Image.fromarray(np.full((60, 60, 3), 220, np.uint8)).save(tmp_path / "smear.png")
    call = ["analyse", tmp_path / "smear.png", "-o", tmp_path / "out", flag, value]
    assert cli.main([str(word) for word in call]) == cli.WRONG_USE
    err = capsys.readouterr().err
    assert flag in err
    assert "should be" in err
    assert not (tmp_path / "out").exists()
