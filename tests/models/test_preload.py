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
        "from napari_bloodcell.models.preload import preload_torch",
        "print(preload_torch(), 'torch' in sys.modules)",
        "import torch",
        "print(int(torch.arange(5).sum()), preload_torch())",
    ]
    assert run("\n".join(lines)) == ["True", "False", "10", "False"]


def test_the_collector_rests_while_torch_is_loaded_and_works_again_afterwards() -> None:
    lines = [
        "import gc, sys",
        "from napari_bloodcell.models.preload import quiet_loading",
        "full = lambda: gc.get_stats()[2]['collections']",
        "before = full()",
        "with quiet_loading():",
        "    import torch",
        "    rested = not gc.isenabled()",
        "print(rested, full() - before, gc.isenabled(), gc.get_freeze_count())",
        "[[] for _ in range(3000)]",  # enough for the young generation, and it alone
        "kept = [o for o in gc.get_objects(2) if isinstance(o, type) and str(o.__module__).startswith('torch')]",
        "print(full() - before, len(kept) > 1000)",
    ]
    assert run("\n".join(lines)) == ["True", "0", "True", "0", "0", "True"]


def test_a_collector_that_was_off_stays_off() -> None:
    lines = [
        "import gc",
        "from napari_bloodcell.models.preload import quiet_loading",
        "gc.disable()",
        "with quiet_loading(): pass",
        "print(gc.isenabled())",
    ]
    assert run("\n".join(lines)) == ["False"]
