"""``napari-bloodcell analyse``: many images in one call."""

# No postponed annotations: cyclopts evaluates them.
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from napari_bloodcell.cli import batch
from napari_bloodcell.cli.console import Json, Quiet, use_json, warn
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
from napari_bloodcell.cli.specimens.pool import grouping, pool_images, report_images
from napari_bloodcell.cli.specimens.report import About, Report, Template, about_of, write_reports
from napari_bloodcell.cli.summary import folders_of
from napari_bloodcell.core.errors import InputError, SettingsError
from napari_bloodcell.core.extras import needed
from napari_bloodcell.core.files import make_folder
from napari_bloodcell.results.exchange.sheets import tables_of, write_xlsx
from napari_bloodcell.results.recipes import read_record
from napari_bloodcell.results.specimens.specimen import Specimen
from napari_bloodcell.results.specimens.write import sheets_of
from napari_bloodcell.results.store import read_result

WORKBOOK = "counts.xlsx"
"""What --xlsx writes beside the summary."""


def analyse(
    *images: str,
    output: Annotated[Path, Parameter(alias="-o")],
    recipe: RecipeFile = None,
    preset: Preset = None,
    label_format: batch.Format = "ome-zarr",
    overlay: Overlay = True,
    kde: Kde = True,
    geojson: Geojson = False,
    device: Device = None,
    precision: InPrecision = None,
    seed: int | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    image_copy: bool = True,
    strict: Annotated[bool, Parameter(negative=())] = False,
    resume: Annotated[bool, Parameter(negative=())] = False,
    specimen: str | None = None,
    report: Report = False,
    xlsx: Annotated[bool, Parameter(negative=())] = False,
    about: About = (),
    template: Template = None,
    quiet: Quiet = False,
    as_json: Json = False,
    segment: SegmentFlags = None,
    classify: ClassifyFlags = None,
    count: CountFlags = None,
) -> int:
    """Segment, type and count the cells of images.

    Parameters
    ----------
    images
        Image files, OME-Zarr folders, folders of images, or globs.
    output
        Folder for the results: one folder per image and summary.csv.
    seed
        Seed of everything drawn at random.
    workers
        Processes, which share the cores: each takes one of several images at a time; on a whole slide, or a single
        image, they work together.
    scheduler
        Address of a dask.distributed scheduler whose workers share it, such as tcp://10.0.0.1:8786.
    image_copy
        Write a lossless copy of a whole slide beside its cells.
    strict
        Exit with code 1 if a result has a warning; it is written nevertheless.
    resume
        Skip images that have a result made with the same settings and models.
    specimen
        Pool the results: "folder" makes the images of each folder one specimen, a regular expression those with the
        same match (its first group) in their names. Writes specimens.csv, and a folder each into specimens/.
    report
        Write report.html, one page to print and to sign: of each specimen with --specimen, else of each image.
    xlsx
        Write counts.xlsx, an Excel workbook: counts and differential of each image, and of each specimen.
    """
    use_json(as_json)
    if not images:
        raise InputError("Give at least one image, folder or glob to analyse.")
    settings = recipe_from(
        recipe,
        preset,
        segment=segment,
        classify=classify,
        count=count,
        device=device,
        precision=precision,
        seed=seed,
    )
    pattern = None if specimen is None else grouping(specimen)
    about_of(about)
    if xlsx:
        needed("openpyxl", extra="exchange", what="--xlsx")
    found, missing = collect(images)
    if not found:
        raise InputError(" ".join(missing.values()))
    make_folder(output)
    models = batch.load_models(settings, quiet=quiet)
    if recipe is not None:
        _warn_of_other_models(recipe, models)
    if workers < 1:
        raise SettingsError(f"--workers is {workers}; give at least 1.")
    options = batch.Options(
        output,
        label_format,
        overlay=overlay,
        kde=kde,
        geojson=geojson,
        quiet=quiet,
        workers=workers,
        scheduler=scheduler,
        copies_image=image_copy,
        strict=strict,
        resumes=resume,
    )
    went_well = batch.run(found, missing, recipe=settings, models=models, options=options)
    if specimen is None and report:
        report_images(folders_of(output, found).values(), about=about, template=template)
    specimens: list[Specimen] = []
    if specimen is not None:
        write = partial(write_reports, about=about, template=template) if report else None
        specimens, is_sure = pool_images(folders_of(output, found), output, pattern, write)
        went_well = went_well and (is_sure or not strict)
    if xlsx:
        results = ((folder.name, read_result(folder)) for folder in folders_of(output, found).values())
        tables = sheets_of(specimens) if specimens else {}
        write_xlsx(output / WORKBOOK, tables | tables_of(results, with_cells=False))
    return DONE if went_well else SOME_FAILED


def _warn_of_other_models(recipe: Path, models: batch.Models) -> None:
    """Warn if a recipe is replayed with other weights than it was recorded with."""
    try:
        recorded = read_record(recipe).models
    except SettingsError:  # bare settings record no models
        return
    for stage, model in (("segment", models.generator), ("classify", models.classifier)):
        if stage in recorded and recorded[stage].sha256 != model.sha256:
            warn(
                f"The {stage} model is {model.name} ({model.sha256[:12]}…), not the one of {recipe}: "
                f"{recorded[stage].name} ({recorded[stage].sha256[:12]}…). The numbers may differ."
            )
