"""segment_anything's networks load without torchvision, and without running the package's `__init__`."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from napari_bloodcell.core.errors import ModelError

IMPORT = "from napari_bloodcell.models.sam_modules import MLP, build_sam, modeling"


def run(code):
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, capture_output=True, text=True)


def test_the_networks_load_and_torchvision_is_not_even_looked_for():
    done = run(
        f"""
        import sys

        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "torchvision":
                    raise RuntimeError("torchvision::nms does not exist")

        sys.meta_path.insert(0, Refuse())
        {IMPORT}
        assert issubclass(modeling.Sam, object) and build_sam.sam_model_registry["vit_b"]
        assert "segment_anything" not in sys.modules
        """
    )
    assert done.returncode == 0, done.stderr


def test_a_tiny_model_is_built_and_runs():
    import torch

    from napari_bloodcell.models.sam_modules import MLP, PromptEncoder

    assert MLP(4, 8, 2, 3)(torch.zeros(1, 4)).shape == (1, 2)
    encoder = PromptEncoder(embed_dim=16, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_chans=4)
    sparse, dense = encoder((torch.zeros(1, 1, 2), torch.ones(1, 1)), None, None)
    assert sparse.shape == (1, 2, 16)
    assert dense.shape == (1, 16, 4, 4)


@pytest.mark.parametrize("content", [None, "", "x = 1"], ids=["missing", "empty folder", "another package"])
def test_a_missing_or_wrong_package_is_an_error_that_says_what_to_install(tmp_path, content):
    package = tmp_path / "segment_anything"
    if content is not None:
        package.mkdir()
    if content:
        (package / "__init__.py").write_text(content)
    done = run(
        f"""
        import sys
        from importlib.machinery import PathFinder

        class OnlyHere:
            def find_spec(self, name, path=None, target=None):
                if name == "segment_anything":
                    spec = PathFinder.find_spec(name, [{str(tmp_path)!r}])
                    if spec is None:
                        raise ModuleNotFoundError(name)
                    return spec

        sys.meta_path.insert(0, OnlyHere())
        from napari_bloodcell.core.errors import ModelError
        try:
            {IMPORT}
        except ModelError as error:
            assert isinstance(error, ImportError)
            sys.exit(str(error))
        """
    )
    assert done.returncode == 1
    assert "pip install" in done.stderr
    assert "segment_anything" in done.stderr


def test_the_error_is_one_of_the_programs_own():
    from napari_bloodcell.models.sam_modules import SegmentAnythingMissingError

    assert issubclass(SegmentAnythingMissingError, ModelError)
