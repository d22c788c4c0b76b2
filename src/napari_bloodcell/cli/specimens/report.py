"""``--report``: the report of each specimen beside its numbers."""

# No postponed annotations: cyclopts evaluates them.
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from napari_bloodcell.cli.console import say
from napari_bloodcell.core.errors import SettingsError, escaped
from napari_bloodcell.corrections.journal import Journal, default_journal_folder
from napari_bloodcell.results.files import REPORT
from napari_bloodcell.results.specimens.report import write_report
from napari_bloodcell.results.specimens.specimen import Specimen

Report = Annotated[bool, Parameter(name="--report", negative=())]
About = Annotated[
    tuple[str, ...],
    Parameter(
        name="--about",
        negative=(),
        help="What reports say about the specimen, such as 'Patient=4711'. May be given several times.",
    ),
]
Template = Annotated[
    Path | None, Parameter(name="--report-template", help="A Jinja2 template of your own for reports.")
]
"""Flags that commands have in common."""


def about_of(entries: Sequence[str]) -> dict[str, str]:
    """Return what the user entered, name by name, from "name=value"."""
    about = {}
    for entry in entries:
        name, is_there, value = entry.partition("=")
        if not (name.strip() and is_there):
            raise SettingsError(f"--about is {entry!r}; a name and a value are expected, as in 'Patient=4711'.")
        about[name.strip()] = value.strip()
    return about


def write_reports(
    specimen: Specimen, folder: Path, *, about: Sequence[str], template: Path | None, journal: Path | None = None
) -> None:
    """Write the report of a specimen into a folder, and say where.

    Without a journal of its own, that of the user says who typed the cells that people typed.
    """
    book = Journal(journal) if journal is not None else None
    if book is None and specimen.fields["n_corrected"].sum():
        book = Journal(default_journal_folder())
    path = write_report(specimen, folder / REPORT, about=about_of(about), journal=book, template=template)
    say(f"Report: {escaped(path)}", "report", path=str(path))
