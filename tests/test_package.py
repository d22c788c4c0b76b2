from __future__ import annotations

import json
import subprocess
import sys

import pytest

import napari_bloodcell as nb

HEAVY = ("torch", "napari", "qtpy", "PyQt6", "PySide6", "matplotlib", "pandas", "scipy", "skimage", "zarr")


def loaded_after(code: str) -> set[str]:
    """Names of top-level modules that a fresh interpreter holds after running `code`."""
    program = f"import sys, json\n{code}\nprint(json.dumps([m for m in sys.modules if '.' not in m]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_loads_neither_torch_nor_qt_nor_napari() -> None:
    assert not loaded_after("import napari_bloodcell").intersection(HEAVY)


def test_settings_are_there_without_anything_heavy() -> None:
    assert not loaded_after("import napari_bloodcell as nb; nb.Recipe.paper()").intersection(HEAVY)


def test_naming_the_functions_of_the_api_loads_no_torch() -> None:
    names = "nb.analyse, nb.segment, nb.classify, nb.count, nb.train, nb.write_result"
    loaded = loaded_after(f"import napari_bloodcell as nb; {names}")
    assert not loaded.intersection({"torch", "napari", "qtpy", "matplotlib"})


@pytest.mark.parametrize("name", nb.__all__)
def test_every_public_name_can_be_had_and_is_listed(name: str) -> None:
    assert getattr(nb, name) is not None
    assert name in dir(nb)


def test_functions_for_napari_are_there_without_qt_or_napari() -> None:
    loaded = loaded_after("import napari_bloodcell as nb; nb.napari.analyse_layer; nb.napari.open_result")
    assert not loaded.intersection({"torch", "napari", "qtpy", "matplotlib"})


WITHOUT_NAPARI = """
import importlib.machinery, sys
class NoNapari(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        viewer = {"napari", "qtpy", "magicgui", "superqt", "PyQt6", "npe2", "vispy", "psygnal"}
        return None if name.split(".")[0] in viewer else super().find_spec(name, path, target)
sys.meta_path[:] = [NoNapari if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
"""


def test_without_napari_everything_else_is_there_and_its_functions_name_the_extra() -> None:
    """As after `pip install napari-bloodcell`: every public name can be had, and every command but the viewer's."""
    code = f"""{WITHOUT_NAPARI}
import napari_bloodcell as nb
from napari_bloodcell.cli.main import app
for name in nb.__all__:
    getattr(nb, name)
for command in app:
    if not command.startswith("-"):
        app[command]
try:
    nb.napari.analyse_layer
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "napari.analyse_layer needs napari" in done.stdout
    assert 'pip install "napari-bloodcell[all]"' in done.stdout


def test_an_unknown_name_is_an_attribute_error_that_says_so() -> None:
    with pytest.raises(AttributeError, match="anaylse"):
        _ = nb.anaylse


def test_the_version_is_a_string() -> None:
    assert isinstance(nb.__version__, str)
    assert nb.__version__[0].isdigit()
