"""All code of README and docs runs: Python and shell, page by page, in a folder with a few images."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest import SkipTest

import pytest
import tifffile
from PIL import Image
from sybil.document import Document
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

import napari_bloodcell as nb
from napari_bloodcell.cli import main as cli
from napari_bloodcell.corrections.journal import image_hash
from napari_bloodcell.learning.kinds import add_kinds, kind_set

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sybil import Example

    from napari_bloodcell.synthetic import Truth

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OF_CODE = re.compile(r"^(?:```|~~~)(?:python|bash)$", re.MULTILINE)
NOT_RUN_MOST = 16
"""Blocks that need a network, a cluster or hours; each says why in its page."""
OUTSIDE = re.compile(r"^python -m ((?:benchmarks|training)\.\w+)\b(.*)$")


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


class Parsed(Exception):
    """The arguments of a program were all right."""


def run_shell(example: Example) -> None:
    """Run a block: lines of this program in this process, which saves seconds each, others in one shell."""
    text = re.sub(r"\\\n\s*", " ", example.parsed)
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if all(line.startswith("napari-bloodcell ") and not re.search(r"[|&;<>]", line) for line in lines):
        for line in lines:
            code = cli.main(shlex.split(line, comments=True)[1:])
            assert code == 0, f"{line!r} ended with exit code {code}"
    elif all(OUTSIDE.match(line) for line in lines):
        for line in lines:
            accept(line)
    else:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        script = f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{text}"
        subprocess.run(["bash", "-euc", script], env={**os.environ, "PATH": path}, check=True, timeout=300)


def accept(command: str) -> None:
    """Check the arguments of a benchmark or a training, which takes minutes and data that is not here."""
    found = OUTSIDE.match(command)
    assert found, command
    module = importlib.import_module(found[1])
    if not hasattr(module, "argparse"):
        assert not found[2].strip(), f"{found[1]} takes no arguments: {command}"
        return
    parse = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *given: object, **named: object) -> None:
        parse(parser, *given, **named)  # type: ignore[call-overload]
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(argparse.ArgumentParser, "error", pytest.fail)
        patch.setattr(sys, "argv", [found[1], *shlex.split(found[2], comments=True)])
        with pytest.raises(Parsed):
            module.main()


@pytest.fixture(scope="module")
def desk(shipped: tuple[NDArray[np.uint8], Truth], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take for granted: images, a slide, a training set, a result with its masks."""
    image = shipped[0]
    folder = tmp_path_factory.mktemp("desk")
    for name, (y, x, height, width) in {
        "smear.jpg": (0, 0, 512, 640),
        "slides/a.jpg": (512, 0, 384, 384),
        "slides/b.jpg": (896, 0, 384, 384),
        "more/c.tif": (512, 400, 384, 384),
    }.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image[y : y + height, x : x + width]).save(path)
    part = image[:512, :1024]
    with tifffile.TiffWriter(folder / "slide.svs") as tiff:  # OpenSlide reads any TIFF of tiles
        tiff.write(part, tile=(256, 256), photometric="rgb", resolution=(40_000, 40_000), resolutionunit="CENTIMETER")
    result = nb.analyse(part)
    nb.write_result(result, folder / "corrected-results", image=part)
    some = result.table.groupby("cell_type").head(12)["cell_type"].to_dict()
    nb.TrainingSet(folder / "my-set").add_segmentation(
        part, result, some, annotator="test", name="smear", image_sha256=image_hash(part)
    )
    told = result.table.head(12).assign(cell_type="WBC", subtype=["neutrophil", "blast"] * 6, subtype_source="user")
    about = {"annotator": "test", "name": "smear", "image_sha256": image_hash(part)}
    cells = SimpleNamespace(cells=result.cells, table=told, calibration=result.calibration)
    add_kinds(kind_set(folder / "my-set", "WBC"), part, cells, "WBC", **about)
    return folder


PARSERS = (
    PythonCodeBlockParser(),
    CodeBlockParser("bash", run_shell),
    SkipParser(),
)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if OF_CODE.search(p.read_text(encoding="utf-8"))], ids=named)
def test_the_code_of_a_page_runs(
    page: Path,
    desk: Path,
    shipped: tuple[NDArray[np.uint8], Truth],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "desk"
    shutil.copytree(desk, folder)
    monkeypatch.chdir(folder)
    image, truth = shipped
    few = image[:512, :640], truth  # some of it is enough to see that the code runs
    monkeypatch.setattr("napari_bloodcell.synthetic.load_shipped", lambda: few)
    for variable in ("CACHE", "JOURNAL", "TRAINING_SET"):
        monkeypatch.setenv(f"NAPARI_BLOODCELL_{variable}", str(tmp_path / variable))
    for example in Document.parse(str(page), *PARSERS).examples():
        try:
            example.evaluate()
        except SkipTest:
            continue


def test_code_that_is_not_run_says_why_and_is_little() -> None:
    reasons = []
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith("<!--- skip:"):
                assert re.fullmatch(r'<!--- skip: next "[^"]{8,}" -->', line), f"{named(page)}: {line}"
                reasons.append(line)
    assert len(reasons) <= NOT_RUN_MOST


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_code_stands_in_fences_that_the_tests_know(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    fences = re.findall(r"^ *(?:```|~~~)(.*)$", text, re.MULTILINE)[::2]
    assert set(fences) <= {"python", "bash", "text"}, "neither run nor marked as an output"


def test_every_benchmark_that_a_page_names_takes_those_arguments() -> None:
    commands = {
        " ".join(command.split())
        for page in PAGES
        for command in re.findall(r"`(python -m (?:benchmarks|training)\.[^`]+)`", page.read_text(encoding="utf-8"))
    }
    assert commands
    for command in commands:
        accept(command)
