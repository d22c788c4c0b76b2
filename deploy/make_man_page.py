"""Makes the man page from the help of the command line: ``python deploy/make_man_page.py``.

The wheel puts it into ``share/man``, where ``man napari-bloodcell`` finds it beside the program; a test compares it
with the help.
"""

from __future__ import annotations

from pathlib import Path

from docutils.core import publish_string
from docutils.writers import manpage

from napari_bloodcell.cli import main as cli

PAGE = Path(__file__).with_name("napari-bloodcell.1")
HEAD = """\
################
napari-bloodcell
################

*************************************************
segment, type and count the blood cells of smears
*************************************************

:Manual section: 1
:Manual group: User Commands

"""
TAIL = """
===========
EXIT STATUS
===========

{codes}

===========
ENVIRONMENT
===========

``NAPARI_BLOODCELL_CACHE``
    Folder of downloaded weights.

``NAPARI_BLOODCELL_JOURNAL``
    Folder of corrections.

``NAPARI_BLOODCELL_TRAINING_SET``
    Folder of the training set that corrections add to.

``NAPARI_BLOODCELL_TRACEBACK``
    Set to 1 to see where a fault happened.

``OMP_NUM_THREADS``
    Threads of a process; by default all cores.

=====
FILES
=====

``recipe.json`` of every result replays to the same numbers: ``napari-bloodcell analyse smear.jpg -o again --recipe
results/smear/recipe.json``.
"""


def page() -> str:
    """Return the page in troff."""
    text = cli.app.generate_docs("rst", flatten_commands=True)
    body = text.partition(":depth: 6\n")[2]  # after the title and the table of contents
    codes = str(cli.app.help_epilogue).removeprefix("Exit codes: ")
    synopsis = (
        f"========\nSYNOPSIS\n========\n\n``{cli.app.name[0]}`` *COMMAND* [*OPTIONS*]\n\n"
        "========\nCOMMANDS\n========\n\n"
    )
    source = f"{HEAD}{synopsis}{body}{TAIL.format(codes=codes)}"
    settings = {"report_level": 2, "halt_level": 2, "_disable_config": True}
    made: bytes = publish_string(source, writer=manpage.Writer(), settings_overrides=settings)
    return made.decode()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
