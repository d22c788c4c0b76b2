from __future__ import annotations

import subprocess
import sys

import pytest


def run(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such linker")
def test_torch_works_after_its_library_was_loaded_ahead() -> None:
    lines = [
        "import sys",
        "from napari_bloodcell.backends.preload import preload_torch",
        "print(preload_torch(), 'torch' in sys.modules)",
        "import torch",
        "print(int(torch.arange(5).sum()), preload_torch())",
    ]
    assert run("\n".join(lines)) == ["True", "False", "10", "False"]
