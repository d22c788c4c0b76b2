"""``napari-bloodcell completion``: commands and flags that a shell completes."""

# No postponed annotations: cyclopts evaluates them.
from typing import Annotated, Literal

from cyclopts import Parameter

from napari_bloodcell.cli.console import say
from napari_bloodcell.cli.main import DONE, app


def completion(
    shell: Literal["bash", "zsh", "fish", "powershell"],
    /,
    *,
    install: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Print, or install, the script that completes commands and flags with the Tab key.

    Parameters
    ----------
    shell
        The shell.
    install
        Put the script where the shell looks for it, and a line that loads it into the shell's start-up file. Without
        it the script is printed.
    """
    if install:
        say(f"Installed {app.install_completion(shell=shell)}. It works in the next shell that you open.")
    else:
        say(app.generate_completion(shell=shell))
    return DONE
