"""Fixtures that many tests share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from napari_bloodcell.synthetic import load_shipped

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_bloodcell.synthetic import Truth

# A machine under load is slow at times; that is not what the properties are about.
settings.register_profile("project", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("project")


@pytest.fixture
def one_torch_thread():
    """Keep torch to one core: what is computed, or timed, must not depend on who else uses the others."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data beside the checkout, or the one that BLOODCELL_DATA names."""
    folder = Path(os.environ.get("BLOODCELL_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data here: {folder} is absent; name the folder in BLOODCELL_DATA")
    return folder


@pytest.fixture(scope="session")
def shipped() -> tuple[NDArray[np.uint8], Truth]:
    """The smear that ships with the program, and its truth; not to be written to."""
    image, truth = load_shipped()
    for array in (image, truth["cells"], truth["types"]):
        array.setflags(write=False)
    return image, truth


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep subprocesses of tests from taking every core."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
