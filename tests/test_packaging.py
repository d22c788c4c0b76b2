"""What is shipped: the wheel and the sdist, built here, installed away from the checkout, and run."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from email import message_from_string
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from email.message import Message

ROOT = Path(__file__).parents[1]
MOST_MB = 25
QT = {"pyqt5", "pyqt6", "pyside2", "pyside6"}


def call(*command: object, cwd: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # it may name a checkout
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source: Path, output: Path) -> Path:
    """Build the sdist and the wheel of a source tree."""
    call(sys.executable, "-m", "hatchling", "build", "-d", output, cwd=source)
    return output


def contents(wheel: Path) -> dict[str, str]:
    """Return the sha256 of every file of a wheel but its own list of them."""
    with zipfile.ZipFile(wheel) as file:
        names = [name for name in file.namelist() if not name.endswith("/RECORD")]
        return {name: hashlib.sha256(file.read(name)).hexdigest() for name in names}


@dataclass(frozen=True)
class Built:
    wheel: Path
    sdist: Path

    @property
    def metadata(self) -> Message:
        with zipfile.ZipFile(self.wheel) as file:
            (name,) = [n for n in file.namelist() if n.endswith(".dist-info/METADATA")]
            return message_from_string(file.read(name).decode())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = build(ROOT, tmp_path_factory.mktemp("dist"))
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(wheel, sdist)


def test_the_wheel_is_small_and_has_weights_manifest_data_and_types(built: Built) -> None:
    assert built.wheel.stat().st_size < MOST_MB * 1e6
    names = set(contents(built.wheel))
    source = ROOT / "src"
    expected = {p.relative_to(source).as_posix() for p in (source / "napari_bloodcell").rglob("*") if p.is_file()}
    expected = {name for name in expected if "__pycache__" not in name}
    assert {name for name in names if name.startswith("napari_bloodcell/")} == expected
    assert [name for name in names if name.endswith(".data/data/share/man/man1/napari-bloodcell.1")]
    for needed in (
        "napari.yaml",
        "py.typed",
        "data/smear.jpg",
        "weights/SHA256SUMS",
        "weights/sam_embedded.safetensors",
    ):
        assert f"napari_bloodcell/{needed}" in names
    assert not [name for name in names if name.split("/")[0] in ("tests", "benchmarks", "training", "docs")]


def test_names_in_the_wheel_are_allowed_on_every_system(built: Built) -> None:
    names = list(contents(built.wheel))
    assert len({name.casefold() for name in names}) == len(names)
    assert not [name for name in names if re.search(r'[<>:"\\|?*\x00-\x1f]', name) or len(name) > 120]
    reserved = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
    assert not [name for name in names if {part.split(".")[0].lower() for part in name.split("/")} & reserved]


def requirements(built: Built, extra: str = "") -> set[str]:
    """Return the names of the packages that the wheel asks for: the base's, or those of an extra alone."""
    lines = [Requirement(line) for line in built.metadata.get_all("Requires-Dist") or []]
    if not extra:
        return {canonicalize_name(line.name) for line in lines if line.marker is None}
    return {canonicalize_name(line.name) for line in lines if line.marker and line.marker.evaluate({"extra": extra})}


def test_the_base_has_no_viewer_the_extra_napari_has_no_qt_and_all_has_both(built: Built) -> None:
    viewer = {"napari", "magicgui", "superqt", "qtpy"}
    base = requirements(built)
    assert len(base) > 10
    assert not base & (viewer | QT)
    assert requirements(built, "napari") - base == viewer
    assert requirements(built, "all") & QT


def test_what_the_core_imports_is_in_the_base_or_in_an_extra_that_a_message_names(built: Built) -> None:
    """Nothing that napari brings along is used without being asked for."""
    package = ROOT / "src" / "napari_bloodcell"
    imported = {
        name.split(".")[0]
        for path in package.rglob("*.py")
        if not path.is_relative_to(package / "napari")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else names_of(node))
    } - {*sys.stdlib_module_names, "napari_bloodcell"}
    assert {"numpy", "torch", "openslide"} <= imported
    owners = packages_distributions()
    extras = set().union(*(requirements(built, extra) for extra in ("anndata", "bio", "cluster", "exchange", "wsi")))
    allowed = requirements(built) | extras
    others = {name for name in imported if not {canonicalize_name(owner) for owner in owners.get(name, ())} & allowed}
    assert others == {"pydantic_core"}  # pydantic's own half, which it pins to the letter


def names_of(node: ast.AST) -> list[str]:
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


def test_the_metadata_has_what_a_list_of_plugins_shows(built: Built) -> None:
    metadata = built.metadata
    assert metadata["Name"] == "napari-bloodcell"
    assert 20 < len(metadata["Summary"]) < 200
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = str(metadata.get_payload())
    assert "https://raw.githubusercontent.com/napari-bloodcell/napari-bloodcell/v" in text
    assert not re.findall(r"\]\((?!https:|#)[^)]*\)", text)  # neither PyPI nor the hub has the repository's files
    assert "<!--- skip" not in text
    urls = dict(str(line).split(", ", 1) for line in metadata.get_all("Project-URL") or [])
    assert {"Homepage", "Documentation", "Source", "Tracker", "Support"} <= urls.keys()
    classifiers = metadata.get_all("Classifier") or []
    for needed in (
        "Framework :: napari",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3.14",
    ):
        assert needed in classifiers


def test_the_wheel_of_the_sdist_is_the_wheel(built: Built, tmp_path: Path) -> None:
    with tarfile.open(built.sdist) as file:
        file.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    for needed in ("tests", "docs", "README.md", "LICENSE", "CITATION.cff", "constraints.txt", "run"):
        assert (source / needed).exists(), needed
    (again,) = build(source, tmp_path / "dist").glob("*.whl")
    assert contents(again) == contents(built.wheel)


def python_with_pip() -> str:
    """This Python, or the one that its environment was made of: `./run` makes one without pip."""
    for python in (sys.executable, str(Path(sys.base_prefix) / "bin" / "python3"), "python3"):
        if subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0:
            return python
    raise AssertionError("no pip")


@pytest.mark.slow
def test_the_wheel_runs_away_from_the_checkout(built: Built, tmp_path: Path) -> None:
    """The packages that it needs are those of this environment; `./run package` installs them anew."""
    call(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env")
    folder = "Scripts" if sys.platform == "win32" else "bin"
    python = tmp_path / "env" / folder / "python"
    call(python_with_pip(), "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", built.wheel)
    site = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")

    where = call(python, "-c", "import napari_bloodcell; print(napari_bloodcell.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(site)
    assert "valid!" in call(python, "-m", "npe2", "validate", "--imports", "napari-bloodcell", cwd=tmp_path)
    program = tmp_path / "env" / folder / "napari-bloodcell"
    call(program, "models", "verify", cwd=tmp_path)
    said = call(program, "demo", "-q", "--format", "tiff", "-o", tmp_path / "demo", cwd=tmp_path)
    assert "RBC" in said
    assert (tmp_path / "demo" / "smear" / "recipe.json").is_file()
