"""Nothing in a file is executed, no path leaves its folder, and nothing goes over the network unasked."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import napari_bloodcell
from napari_bloodcell.images.files import is_inside
from napari_bloodcell.models import weights

SOURCE = Path(napari_bloodcell.__file__).parent
MODULES = {p.relative_to(SOURCE).as_posix(): ast.parse(p.read_text("utf-8")) for p in sorted(SOURCE.rglob("*.py"))}
NETWORK = {"socket", "urllib.request", "http.client", "http", "requests", "httpx", "aiohttp", "ftplib", "smtplib"}


def imported(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def calls(tree: ast.Module) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_one_module_alone_can_reach_the_network() -> None:
    found = {name for name, tree in MODULES.items() if imported(tree) & NETWORK}
    assert found == {"models/download.py"}


def test_every_download_is_https_with_a_pinned_hash() -> None:
    listed = [file for file in [*weights.list_models(), weights.SAMPLE] if file.url is not None]
    assert len(listed) == 4
    for file in listed:
        assert file.url.startswith("https://")
        assert len(bytes.fromhex(file.sha256)) == 32


def test_no_code_unpickles_or_evaluates() -> None:
    forbidden = ("eval", "exec", "compile", "pickle.load", "pickle.loads", "os.system", "__import__")
    found = [(name, call) for name, tree in MODULES.items() for call, _ in calls(tree) if call in forbidden]
    assert not found
    for name, tree in MODULES.items():
        for call, node in calls(tree):
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if call == "torch.load":
                assert given.get("weights_only") == "True", name
            if call == "np.load":
                assert given.get("allow_pickle") == "False", name


@pytest.mark.parametrize(
    "path",
    ["../a", "a/../../b", "/a", "\\a", "..\\a", "C:\\a", "C:a", "\\\\host\\share\\a", "a\\..\\..\\b", "", "a\0b"],
)
def test_a_path_that_leaves_its_folder_on_any_system_is_known(path: str) -> None:
    assert not is_inside(path)


@pytest.mark.parametrize("path", ["a", "a/b.png", "RBC/cell 1.png", "..a", "a..b/c"])
def test_a_path_that_stays_is_known_too(path: str) -> None:
    assert is_inside(path)


WATCHED = """
import sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request"):
        address = arguments[1] if event == "socket.connect" else arguments
        if not isinstance(address, (str, bytes)):  # a name of a file: a socket within this machine
            print("NETWORK", event, arguments, file=sys.stderr)
            raise OSError("there is no network")
sys.addaudithook(watch)
from napari_bloodcell.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_an_analysis_opens_no_connection(tmp_path: Path) -> None:
    from PIL import Image

    from napari_bloodcell.synthetic import load_shipped

    Image.fromarray(load_shipped()[0][:300, :300]).save(tmp_path / "smear.png")
    command = [sys.executable, "-c", WATCHED, "analyse", "smear.png", "-o", "out", "-q", "--geojson"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "NETWORK" not in done.stderr
    assert (tmp_path / "out" / "smear" / "recipe.json").is_file()


def test_the_watch_on_the_network_sees_a_connection(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WATCHED, "models", "download", "vit_b"]
    environment = {**os.environ, weights.CACHE_VARIABLE: str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert "NETWORK" in done.stderr
    assert "there is no connection" in done.stderr
