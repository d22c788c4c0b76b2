"""What the tasks of a run work with, opened once per process: slide, models and folder."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path

from napari_bloodcell.core.errors import InputWarning
from napari_bloodcell.core.protocols import CellClassifier, MaskGenerator
from napari_bloodcell.images.image import SlideImage
from napari_bloodcell.images.open import open_image
from napari_bloodcell.models.load import load_models
from napari_bloodcell.results.files import ZARR
from napari_bloodcell.results.plan import Plan
from napari_bloodcell.results.pyramid import Pyramids
from napari_bloodcell.slides.neighbours import NearbyMasks
from napari_bloodcell.slides.work import WorkFolder


@dataclass(frozen=True)
class Job:
    """Description of a run for another process; can be pickled."""

    output: str
    source: str
    plan: Plan
    n_levels: int
    generator: MaskGenerator | None = None
    classifier: CellClassifier | None = None

    @property
    def key(self) -> str:
        """Identifies the run that a process has opened."""
        return f"{self.output} {self.source} {self.plan.block_hash}"

    def open(self) -> Context:
        """Open the slide and load the models in this process."""
        generator, classifier = load_models(self.plan.recipe, self.generator, self.classifier)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)  # already shown by the process that started the run
            slide = open_image(self.source)
            slide = replace(slide, levels=slide.levels[: self.n_levels]).with_measured_values()
        return Context(WorkFolder(Path(self.output)), self.plan, slide, generator, classifier)


@dataclass
class Context:
    """What the tasks of a run work with in one process."""

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
        """Whether the image must be written into the OME-Zarr; False if it is there already."""
        target = (self.work.output / ZARR).resolve()
        return self.plan.copies_image and (self.slide.source is None or Path(self.slide.source).resolve() != target)

    def without(self, failed: frozenset[int]) -> None:
        """Treat these tiles as having no masks."""
        if failed != self.nearby.failed:
            self.nearby = NearbyMasks(self.work, self.plan, failed)
