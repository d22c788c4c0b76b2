"""Where work on a slide is done: the slide, the models and the folder, opened once per process."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_bloodcell.core.errors import InputWarning
from napari_bloodcell.images.open import open_image
from napari_bloodcell.models.load import load_classifier, load_generator
from napari_bloodcell.results.files import ZARR
from napari_bloodcell.results.pyramid import Pyramids
from napari_bloodcell.slides.neighbours import NearbyMasks
from napari_bloodcell.slides.work import WorkFolder

if TYPE_CHECKING:
    from napari_bloodcell.core.protocols import CellClassifier, MaskGenerator
    from napari_bloodcell.images.image import SlideImage
    from napari_bloodcell.results.plan import Plan


@dataclass(frozen=True)
class Job:
    """A run as another process is told of it; can be pickled.

    Attributes
    ----------
    output : str
        The folder of the result, which every process must reach by this path.
    source : str
        The slide's path, or that of its copy in the result.
    plan : Plan
        The run.
    n_levels : int
        Levels of the slide that can be read.
    generator, classifier : optional
        Models to use instead of those that the plan's recipe names.
    """

    output: str
    source: str
    plan: Plan
    n_levels: int
    generator: MaskGenerator | None = None
    classifier: CellClassifier | None = None

    @property
    def key(self) -> str:
        """By which a process knows that it is the one it has opened already."""
        return f"{self.output} {self.source} {self.plan.block_hash}"

    def open(self) -> Site:
        """Open the slide and load the models, here."""
        recipe = self.plan.recipe
        generator, classifier = self.generator, self.classifier
        if generator is None:
            generator = load_generator(recipe.segment.model, recipe.segment.device, recipe.segment.precision)
        if classifier is None:
            classifier = load_classifier(recipe.classify.model, recipe.classify.device, recipe.classify.precision)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)  # the process that began the run told of it
            slide = open_image(self.source)
            slide = replace(slide, levels=slide.levels[: self.n_levels]).with_measured_values()
        return Site(WorkFolder(Path(self.output)), self.plan, slide, generator, classifier)


@dataclass
class Site:
    """What the tasks of a run work with, in one process.

    Attributes
    ----------
    work : WorkFolder
        Where they put what they found.
    plan : Plan
        The run.
    slide : SlideImage
        The image.
    generator, classifier : optional
        The models.
    nearby : NearbyMasks
        Masks of tiles that are done, by place.
    pyramids : Pyramids
        Of the OME-Zarr of the result.
    """

    work: WorkFolder
    plan: Plan
    slide: SlideImage
    generator: MaskGenerator
    classifier: CellClassifier
    nearby: NearbyMasks = field(init=False)
    pyramids: Pyramids = field(init=False)

    def __post_init__(self) -> None:
        self.nearby = NearbyMasks(self.work, self.plan)
        self.pyramids = Pyramids(self.work.output / ZARR)

    @property
    def must_copy_image(self) -> bool:
        """Whether the image has to be written into the OME-Zarr, or lies there already."""
        target = (self.work.output / ZARR).resolve()
        return self.plan.copies_image and (self.slide.source is None or Path(self.slide.source).resolve() != target)

    def without(self, failed: frozenset[int]) -> None:
        """Take the masks of these tiles to be none."""
        if failed != self.nearby.failed:
            self.nearby = NearbyMasks(self.work, self.plan, failed)
