"""``napari-bloodcell completion``: commands and flags that a shell completes."""

# No postponed annotations: cyclopts evaluates them.
from typing import Literal

from napari_bloodcell.cli.console import say
from napari_bloodcell.cli.main import DONE, app


def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print the script that completes commands and flags with the Tab key.

    Parameters
    ----------
    shell
        The shell. Put the script where it looks for completions, as in ``napari-bloodcell completion bash >
        ~/.local/share/bash-completion/completions/napari-bloodcell``.
    """
    say(app.generate_completion(shell=shell))
    return DONE
