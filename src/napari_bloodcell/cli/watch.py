"""``napari-bloodcell watch``: pictures are analysed as a microscope saves them, until the specimen has enough cells."""

# No postponed annotations: cyclopts evaluates them.
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from napari_bloodcell.cli import batch
from napari_bloodcell.cli.console import Json, Quiet, say, stop_on_interrupt, use_json, warn
from napari_bloodcell.cli.folders import collect
from napari_bloodcell.cli.main import DONE, SOME_FAILED
from napari_bloodcell.cli.settings import (
    ClassifyFlags,
    CountFlags,
    Device,
    Geojson,
    InPrecision,
    Kde,
    Overlay,
    Preset,
    RecipeFile,
    SegmentFlags,
    recipe_from,
)
from napari_bloodcell.cli.specimens.pool import say_numbers
from napari_bloodcell.cli.specimens.report import About, Report, Template, about_of, write_reports
from napari_bloodcell.cli.summary import folders_of
from napari_bloodcell.core.errors import InputError, SettingsError, escaped
from napari_bloodcell.core.files import make_folder
from napari_bloodcell.images.files import image_name
from napari_bloodcell.results.result import Result
from napari_bloodcell.results.specimens.specimen import Specimen, specimen_of
from napari_bloodcell.results.specimens.write import write_specimen
from napari_bloodcell.results.store import read_result

FIELDS = "fields"
_AWAKE = 0.2  # seconds until a signal is heeded
Stamp = tuple[int, int]
"""Bytes of a file, or of all files of a folder, and when it was last written, in nanoseconds."""


@dataclass(frozen=True)
class Target:
    """So many cells of a type or a kind of white cell, or so many fields."""

    n: int
    what: str

    @classmethod
    def of(cls, words: str) -> "Target":
        """Return the target that words such as "200 WBC" name; `SettingsError` if they name none."""
        found = re.fullmatch(r"\s*([\d,]+)\s+(\S.*?)\s*", words)
        if found is None or not (n := int(found[1].replace(",", "") or 0)):
            raise SettingsError(f"--until is {words!r}; a number and a type are expected, such as '200 WBC'.")
        return cls(n, found[2])

    def missing(self, specimen: Specimen) -> int:
        """Return how many are still missing."""
        found = specimen.counted | specimen.kinds | {FIELDS: specimen.n_fields}
        return max(0, self.n - found.get(self.what, 0))


def watch(
    folder: Path,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    until: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    every: float = 2.0,
    name: str | None = None,
    recipe: RecipeFile = None,
    preset: Preset = None,
    label_format: batch.Format = "ome-zarr",
    overlay: Overlay = True,
    kde: Kde = True,
    geojson: Geojson = False,
    device: Device = None,
    precision: InPrecision = None,
    workers: int = 1,
    report: Report = False,
    about: About = (),
    template: Template = None,
    quiet: Quiet = False,
    as_json: Json = False,
    segment: SegmentFlags = None,
    classify: ClassifyFlags = None,
    count: CountFlags = None,
) -> int:
    """Analyse the pictures of a folder as they come, and pool them as one specimen.

    A picture is read when its size has not changed for a moment. One that is replaced is analysed again, and one that
    is there twice counts once. Ctrl-C and SIGTERM end it after the picture in work; called again, it goes on.

    Exit code: 0 all done, 1 some pictures failed, 2 wrong use.

    Parameters
    ----------
    folder
        Folder that a microscope saves pictures into.
    output
        Folder for the results: one folder per picture, summary.csv, and the specimen's specimen.json and fields.csv.
    until
        End when there is enough: '200 WBC', '1000 RBC', '100 neutrophil', '30 fields'. Cells are those of the unbiased
        frames. May be given several times; then all must be reached.
    every
        Seconds between two looks at the folder.
    name
        Name of the specimen; by default that of the folder.
    workers
        Processes, which share the cores: each takes one of several pictures at a time.
    report
        Write report.html, one page to print and to sign, whenever the specimen grows.
    """
    use_json(as_json)
    settings = recipe_from(
        recipe, preset, segment=segment, classify=classify, count=count, device=device, precision=precision, seed=None
    )
    targets = [Target.of(words) for words in until]
    about_of(about)
    if not folder.is_dir():
        raise InputError(f"There is no folder {escaped(folder)} to watch. Make it, or give another.")
    if not every > 0:
        raise SettingsError(f"--every is {every}; give a number of seconds above 0.")
    if workers < 1:
        raise SettingsError(f"--workers is {workers}; give at least 1.")
    make_folder(output)
    models = batch.load_models(settings, quiet=quiet)
    options = batch.Options(
        output,
        label_format,
        overlay=overlay,
        kde=kde,
        geojson=geojson,
        quiet=True,
        workers=workers,
        resumes=True,
    )
    title, known = name or image_name(folder.resolve()), dict[Path, Result]()
    is_complete = True
    with stop_on_interrupt(
        "Stopping after the picture in work; called again, it goes on.", sigterm=True
    ) as should_stop:
        for ready in _iter_ready(folder, every, should_stop, quiet=quiet):
            for start in range(0, len(ready), workers):
                some = ready[start : start + workers]
                batch.run(some, {}, recipe=settings, models=models, options=options)
                for image in some:
                    known.pop(image, None)
                if should_stop():
                    break
            images = collect([str(folder)])[0]
            fields = _fields(output, images, known)
            is_complete = len(fields) == len(images) and not any(field.failed_tiles for field in fields)
            if not fields:
                continue
            specimen = _pooled(fields, title, targets)
            write_specimen(specimen, output)
            if report:
                write_reports(specimen, output, about=about, template=template)
            if targets and not any(target.missing(specimen) for target in targets):
                say(f"{escaped(title)}: enough.", "enough", specimen=title)
                break
    return DONE if is_complete else SOME_FAILED


def _iter_ready(folder: Path, every: float, should_stop: Callable[[], bool], *, quiet: bool) -> Iterator[list[Path]]:
    """Yield the pictures that have become ready since the last time, whenever there are some, until asked to stop."""
    handled: dict[Path, Stamp] = {}
    before: dict[Path, Stamp] = {}
    told: set[str] = set()
    is_waiting = False
    while not should_stop():
        found, missing = collect([str(folder)])
        for name, why in missing.items():
            if name != str(folder) and name not in told:  # an empty folder is what one waits for
                told.add(name)
                warn(f"{escaped(name)}: {why}", "warning", image=escaped(name), text=why)
        now = {path: stamp for path in found if (stamp := _stamp(path)) is not None}
        ready = [path for path, stamp in now.items() if before.get(path) == stamp and handled.get(path) != stamp]
        before = now
        if ready:
            handled |= {path: now[path] for path in ready}
            is_waiting = False
            yield ready
        elif not is_waiting and not quiet:
            is_waiting = True
            warn(f"Waiting for pictures in {escaped(folder)}; Ctrl-C ends it.", "waiting", folder=escaped(folder))
        end = time.monotonic() + every
        while not should_stop() and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _AWAKE))


def _stamp(path: Path) -> Stamp | None:
    """Return size and time of a picture, or of all files of a picture that is a folder; None if it is gone."""
    try:
        files = [path, *path.rglob("*")] if path.is_dir() else [path]
        stats = [file.stat() for file in files]
    except OSError:
        return None
    return sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)


def _fields(output: Path, images: Sequence[Path], known: dict[Path, Result]) -> list[Result]:
    """Return the result of each picture that has one; those that are not `known` are read."""
    folders = folders_of(output, images)
    for image, folder in folders.items():
        if image not in known:
            known[image] = replace(read_result(folder), folder=folder)
    return [known[image] for image in folders]


def _pooled(fields: Sequence[Result], name: str, targets: Sequence[Target]) -> Specimen:
    """Return the specimen, and say its numbers and what is missing."""
    specimen = specimen_of(fields, name=name)  # warnings of the fields were said; its own are in its files
    left = {target.what: n for target in targets if (n := target.missing(specimen))}
    say_numbers(specimen, "".join(f"; {n:,} {what} to go" for what, n in left.items()), missing=left)
    return specimen
