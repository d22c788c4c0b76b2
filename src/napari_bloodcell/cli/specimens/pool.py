"""``napari-bloodcell pool``, and ``analyse --specimen``: the fields of a smear put together."""

# No postponed annotations: cyclopts evaluates them.
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from napari_bloodcell.cli.console import Json, say, use_json, warn
from napari_bloodcell.cli.main import DONE, SOME_FAILED
from napari_bloodcell.cli.specimens.report import About, Report, Template, about_of, write_reports
from napari_bloodcell.core.cells import RBC
from napari_bloodcell.core.errors import InputError, SettingsError, escaped
from napari_bloodcell.core.files import legal_name, make_folder
from napari_bloodcell.images.files import image_name
from napari_bloodcell.results.specimens.specimen import Specimen, specimen_of
from napari_bloodcell.results.specimens.write import SPECIMENS, write_specimen, write_specimens

BY_FOLDER = "folder"
"""`--specimen`: images of one folder are one specimen."""


def pool_results(
    *results: Path,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    name: str = "specimen",
    journal: Path | None = None,
    report: Report = False,
    about: About = (),
    template: Template = None,
    strict: Annotated[bool, Parameter(negative=())] = False,
    as_json: Json = False,
) -> int:
    """Pool the results of the fields of one smear.

    Parameters
    ----------
    results
        Folders of results, or folders that analyse wrote results into.
    output
        Folder for specimen.json and fields.csv. Without it the numbers are only printed.
    name
        Name of the specimen.
    journal
        Corrections, a folder or .jsonl file, that replace the types of the results.
    report
        Write report.html, one page to print and to sign, into the output folder.
    strict
        Exit with code 1 if the specimen has a warning.
    """
    use_json(as_json)
    about_of(about)
    if report and output is None:
        raise SettingsError("--report needs an --output folder to write into.")
    if not results:
        raise InputError("Give at least one folder of results to pool.")
    specimen = _pooled(results, name, journal)
    if output is not None:
        make_folder(output)
        write_specimen(specimen, output)
        if report:
            write_reports(specimen, output, about=about, template=template, journal=journal)
    return SOME_FAILED if strict and specimen.warnings else DONE


def grouping(by: str) -> re.Pattern[str] | None:
    """Return the pattern that names specimens, None for their folders; `SettingsError` if it is none."""
    if by == BY_FOLDER:
        return None
    try:
        return re.compile(by)
    except re.error as error:
        raise SettingsError(
            f"--specimen {by!r} is neither {BY_FOLDER!r} nor a regular expression: {error}. The first group of it, or "
            "all that it matches in the name of an image, is the name of the specimen."
        ) from error


def report_images(folders: Iterable[Path], *, about: Sequence[str], template: Path | None) -> None:
    """Write the report of each image's result into its folder: a specimen of one field."""
    for folder in folders:
        write_reports(specimen_of(folder, name=folder.name), folder, about=about, template=template)


def pool_images(
    folders: Mapping[Path, Path],
    output: Path,
    pattern: re.Pattern[str] | None,
    report: Callable[[Specimen, Path], object] | None = None,
) -> tuple[list[Specimen], bool]:
    """Pool the results of images, given the folder of each, by the names of images or of their folders.

    `report` writes the report of a specimen into its folder. Each specimen gets a folder in ``specimens/``, and a row
    of ``specimens.csv``. Return the specimens, and whether none has a warning.
    """
    groups: dict[str, list[Path]] = defaultdict(list)
    for image, folder in folders.items():
        groups[_specimen_of(image, pattern)].append(folder)
    if unnamed := groups.pop("", []):
        names = ", ".join(escaped(folder.name) for folder in unnamed)
        warn(f"No specimen: nothing in the names of these images matches: {names}")
    specimens = [_pooled(groups[name], name, None) for name in sorted(groups)]
    taken: set[str] = set()
    for specimen in specimens:
        own, number = legal_name(specimen.name), 1
        while own.casefold() in taken:
            number += 1
            own = f"{legal_name(specimen.name)}_{number}"
        taken.add(own.casefold())
        folder = write_specimen(specimen, output / "specimens" / own)
        if report is not None:
            report(specimen, folder)
    if specimens:
        write_specimens(specimens, output / SPECIMENS)
    return specimens, not unnamed and not any(specimen.warnings for specimen in specimens)


def _specimen_of(image: Path, pattern: re.Pattern[str] | None) -> str:
    """Return the name of an image's specimen; "" if it has none."""
    if pattern is None:
        return image.resolve().parent.name or "root"
    match = pattern.search(image_name(image))
    return "" if match is None else str(match.group(1 if pattern.groups else 0) or "")


def _pooled(results: Sequence[Path], name: str, journal: Path | None) -> Specimen:
    """Pool results and print what was found."""
    specimen = specimen_of(results, name=name, journal=journal)
    say_numbers(specimen)
    for sentence in specimen.warnings:
        warn(f"{escaped(name)}: warning: {sentence}", "warning", specimen=name, text=sentence)
    return specimen


def say_numbers(specimen: Specimen, more: str = "", **fields: object) -> None:
    """Print a specimen's numbers in a line, with something more behind; `fields` are more for programs."""
    numbers = {"n_fields": specimen.n_fields, "counts": specimen.counts}
    say(f"{escaped(specimen.name)}: {in_words(specimen)}{more}", "specimen", name=specimen.name, **numbers, **fields)


def in_words(specimen: Specimen) -> str:
    """Return a specimen's numbers in one line."""
    counts = ", ".join(f"{name} {n:,}" for name, n in specimen.counts.items())
    words = f"{specimen.n_fields} field{'s' * (specimen.n_fields != 1)}, {counts}"
    if specimen.area_mm2 is not None and specimen.counted.get(RBC):
        row = specimen.densities.loc[RBC]
        words += f"; {row['per_mm2']:,.0f} {RBC} per mm² (95 %: {row['low']:,.0f} to {row['high']:,.0f})"
    return words
