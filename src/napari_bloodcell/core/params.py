"""Settings of every stage: each field has its type, bounds, default and meaning here, once.

The API's arguments, the command line's flags, the docks' forms and the recipe file are all made
from these models. ``Recipe.paper()`` is the named preset with the values of Rao et al. 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from napari_bloodcell.core.measures import MEASURES

OFFICIAL_SAMS: Final = ("vit_b", "vit_l", "vit_h")
"""Names of the official SAM checkpoints."""


@dataclass(frozen=True, slots=True)
class Shown:
    """How a form shows a setting, beside its type, bounds and docstring.

    Attributes
    ----------
    unit : str
        Of a number; the name of the setting ends with it where it is ASCII: ``pixel_size_um`` is in "µm".
    decimals : int
        Of a number with a point.
    names : tuple of str
        What is offered where the setting is a name; other names may be given.
    is_file : bool
        A name may also be the path of a file.
    """

    unit: str = ""
    decimals: int = 2
    names: tuple[str, ...] = ()
    is_file: bool = False


PIXELS: Final = Shown(unit="px")
Device = Annotated[str, Shown(names=("auto", "cpu", "cuda", "mps"))]
Precision = Literal["auto", "float32", "bfloat16"]


class Params(BaseModel):
    """Base of all settings: immutable, unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SegmentParams(Params):
    """How a smear is cut into tiles and its cells are found (paper §3.2, §3.3, §4.3)."""

    model: Annotated[str, Shown(names=("embedded", *OFFICIAL_SAMS), is_file=True)] = "embedded"
    """Mask generator: "embedded", an official SAM ("vit_b", "vit_l", "vit_h"), or the path of a checkpoint."""
    tile_size: int = Field(default=512, ge=64, le=8192)
    """Side of a tile, pixels; tiles at the right and bottom edge may be smaller (§3.2). Small tiles go through the
    model several at a time if it works better so; the cells are the same."""
    tile_overlap: int | None = Field(default=None, ge=0, le=1024)
    """Pixels read around a tile so that cells on its border are seen whole. None: as many as the model needs. 0: the
    paper's tiles; cells cut by a border are then joined afterwards (§3.6)."""
    brighten: bool = True
    """Brighten an image whose mean is below `brightness_target` (§4.3), on a copy."""
    brightness_target: float = Field(default=140.0, gt=0, le=255)
    """Mean of HSV's V to which dark images are brightened, 0 to 255 (§4.3)."""
    brighten_per: Literal["image", "tile"] = "image"
    """Where the mean is taken. "image" makes the result independent of the tiles; `Recipe.paper` takes "tile", as its
    SAM sees one tile at a time."""
    rbc_diameter_px: Annotated[float | None, PIXELS] = Field(default=None, ge=5, le=2000)
    """Width of a typical red cell, pixels. None: from `pixel_size_um`, else estimated from the image."""
    pixel_size_um: Annotated[float | None, Shown(unit="µm")] = Field(default=None, ge=0.005, le=2)
    """Micrometres per pixel; a red cell is taken to be 7.5 µm wide."""
    prompts: Literal["cells", "grid"] = "cells"
    """Where an official SAM is prompted: at the cells only, or on SAM's regular grid (the paper's)."""
    points_per_side: int = Field(default=32, ge=1, le=256)
    """Side of SAM's regular grid of point prompts in one tile."""
    points_per_batch: int = Field(default=32, ge=1, le=4096)
    """Prompts decoded at once (the authors' published code: 32)."""
    score_min: float = Field(default=0.4, ge=0, le=1)
    """The embedded model's confidence below which a proposal is no cell."""
    predicted_iou_min: float = Field(default=0.5, ge=0, le=1)
    """Masks whose predicted IoU is lower are dropped (the authors' published code: 0.92 with SAM ViT-H)."""
    stability_min: float = Field(default=0.5, ge=0, le=1)
    """Masks whose stability score is lower are dropped (the authors' published code: 0.96)."""
    edge_visible_min: float = Field(default=0.22, ge=0, le=1)
    """A cell cut by the image's edge is left out if less than this share of a red cell's width is visible."""
    overlap_max: float = Field(default=0.6, gt=0, le=1)
    """If more than this share of a mask lies in another, they are one cell: the better mask stays."""
    device: Device = "auto"
    """"auto", "cpu", "cuda", "cuda:1", "mps"."""
    precision: Precision = "auto"
    """In which numbers the model multiplies. "auto": bfloat16 where the hardware has it, else float32; the recipe that
    is written says which it was. bfloat16 works on every processor, but slowly where it is emulated."""


class ClassifyParams(Params):
    """How cells are typed (paper §3.4, §4.2)."""

    model: Annotated[str, Shown(names=("embedded", "paper"), is_file=True)] = "embedded"
    """Classifier: "embedded" (RBC, WBC, platelet), "paper" (the paper's binary CNN) or a trained one's .safetensors."""
    use_context: bool = True
    """Weigh in the type that the mask generator proposes, which sees the cell's surroundings. The paper's preset does
    not."""
    unidentified_below: float = Field(default=0.0, ge=0, le=1)
    """A cell whose probability is lower is reported as "unidentified". 0: never."""
    subtypes: tuple[str, ...] = ("differential",)
    """Models that tell the kinds of a type apart, by name or file: "differential" those of white cells, "parasites"
    infected red cells. (): none. Of two that refine one type the later has the last word, where it has anything to
    say."""
    batch_size: int = Field(default=256, ge=1, le=65536)
    """Cutouts typed at once."""
    device: Device = "auto"
    """"auto", "cpu", "cuda", "cuda:1", "mps"."""
    precision: Precision = "auto"
    """As that of the mask generator."""


class CountParams(Params):
    """How cells become numbers (paper §4.2, Fig. 6)."""

    rule: Literal["robust", "paper", "none"] = "robust"
    """How RBC areas become cells per region. "paper": thresholds midway between successive KDE peaks. "robust": the
    paper's rule guarded against a single peak and against debris, cut cells and large clumps. "none": one each."""
    edges: Literal["frame", "all", "inside"] = "frame"
    """Which cells count per area and in shares. "frame": those of an unbiased frame (Gundersen), of which a cell that
    touches the top or left edge is part, one that touches the right or bottom edge not. "all": every cell seen, too
    many per area (the paper). "inside": cells that touch no edge, too few. Plain counts are of all."""
    max_cells_per_region: int = Field(default=8, ge=1, le=64)
    """Most cells that one region may count as (the paper: 4)."""
    bandwidth: float | None = Field(default=None, gt=0)
    """Bandwidth of the KDE, pixels². None: Scott's rule on a robust spread."""
    grid_points: int = Field(default=1024, ge=64, le=65536)
    """Least number of points of the KDE's grid; a narrow bandwidth gets more."""
    thresholds: tuple[float, ...] | None = None
    """Rising areas, pixels², from which a region counts as 2, 3, … cells, if set by hand. None: those of the rule."""
    measurements: tuple[str, ...] = ()
    """What is measured of each cell, as further columns of the table: any of "perimeter", "circularity", "solidity",
    "eccentricity", "feret_min", "feret_max", "equivalent_diameter", "pallor_share", "pallor_depth", "density",
    "density_integral" and "hue"."""
    grades: Annotated[str, Shown(is_file=True)] = ""
    """TOML file of the percentages from which a shape of red cells is 1+, 2+, 3+. "": the program's, after ICSH 2015;
    check it against your laboratory's table."""
    parasitaemia_target: int = Field(default=1000, ge=1)
    """Red cells to count before a parasitaemia is reported (500, 1,000, 2,000, 5,000 or 10,000 are usual)."""
    quality: Literal["report", "good only", "off"] = "report"
    """Whether places are judged by how well they can be counted. "report": all cells count, and those in good places
    are told beside them. "good only": cells elsewhere do not count. "off": nothing is judged."""

    @field_validator("measurements")
    @classmethod
    def _are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if name not in MEASURES]
        if unknown:
            raise ValueError(f"{', '.join(unknown)} cannot be measured; give any of {', '.join(MEASURES)}")
        return tuple(dict.fromkeys(names))


class TrainParams(Params):
    """How the classifier is trained (paper §3.4, §4.1, §4.3)."""

    epochs: int = Field(default=20, ge=1, le=10000)
    """Passes over the training part at most (Table 2)."""
    batch_size: int = Field(default=4, ge=1, le=65536)
    """Cutouts in a step (Table 2)."""
    learning_rate: Annotated[float, Shown(decimals=6)] = Field(default=1e-4, gt=0, le=1)
    """Step size (Table 2) of Adam (the authors' published code)."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Share of dense units dropped in training (§3.4, Table 2)."""
    dense_units: int = Field(default=512, ge=1, le=65536)
    """Width of the dense layer (the authors' published code; the paper's text does not say)."""
    split: tuple[float, float, float] = (0.75, 0.15, 0.10)
    """Shares of training, validation and test part, per class (§3.4)."""
    wbc_augmentation: int = Field(default=10, ge=1, le=100)
    """Copies made of each WBC of the training part, by flips and rotations up to 90° (§3.4)."""
    rbc_per_wbc: float | None = Field(default=2.0, gt=0)
    """RBC of the training part are thinned to this many per (augmented) WBC (§3.4). None: all are kept."""
    turn: bool = True
    """Cutouts of the training part are flipped and turned by quarters at random, anew in each epoch, as more of
    the copies of §3.4: a cell has no top (`paper`: not)."""
    shift_px: Annotated[int, PIXELS] = Field(default=12, ge=0, le=64)
    """Cutouts of the training part are moved at random by up to this many pixels, anew in each epoch: a crumb of a mask
    far from its cell, which moves the cell out of the middle, must not change its type (`paper`: 0)."""
    fine_tune: Literal["head", "all"] = "head"
    """Layers that fine-tuning changes. "head": the dense layers, held back by `anchor`, which is safe with a few cells
    per class; batches, learning rate and dropout play no part. "all": every layer, by Adam, as in the paper (§4.3), for
    hundreds of cells per class."""
    anchor: float = Field(default=6.0, ge=0, le=1e9)
    """How strongly fine-tuning of the head holds on to the weights that it began with; the more cells, the less."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after this many epochs without a better validation loss. None: never (`quick`: 5)."""
    seed: int = 0
    """Seed of split, augmentation and initial weights."""
    device: Device = "auto"
    """"auto", "cpu", "cuda", "cuda:1", "mps"."""

    @classmethod
    def paper(cls, **changes: Any) -> TrainParams:
        """Return the paper's settings: cutouts are copied once (§3.4), fine-tuning changes every layer (§4.3)."""
        return cls.model_validate({"turn": False, "shift_px": 0, "fine_tune": "all", **changes})

    @classmethod
    def quick(cls, **changes: Any) -> TrainParams:
        """Return settings that train from scratch several times sooner: larger steps in larger batches, early stop."""
        values = {"batch_size": 32, "learning_rate": 1e-3, "dense_units": 128, "patience": 5}
        return cls.model_validate({**values, **changes})


class TrainSamParams(Params):
    """How the embedded SAM's decoder is fine-tuned on a laboratory's masks."""

    steps: int = Field(default=200, ge=1, le=1_000_000)
    """Steps of some two dozen cells."""
    learning_rate: float = Field(default=3e-4, gt=0, le=1)
    """Largest step size of AdamW."""
    seed: int = 0
    """Seed of everything drawn at random."""
    device: str = "auto"
    """"auto", "cpu", "cuda", "cuda:1", "mps"."""


class Recipe(Params):
    """The settings of every stage: what `analyse` takes and what is written beside each result."""

    segment: SegmentParams = SegmentParams()
    classify: ClassifyParams = ClassifyParams()
    count: CountParams = CountParams()
    seed: int = 0
    """Seed of everything drawn at random."""

    def as_used(self, *, segment: str | None = None, classify: str | None = None) -> Recipe:
        """Return these settings with the precision in which each model worked."""
        used = {"segment": (self.segment, segment), "classify": (self.classify, classify)}
        changes = {stage: of.model_copy(update={"precision": p}) for stage, (of, p) in used.items() if p is not None}
        return self.model_copy(update=changes)

    def in_precision_of(self, recorded: Recipe) -> Recipe:
        """Return these settings with the precision of others, for each stage that is the same but leaves it open."""
        found: dict[str, str] = {}
        for stage in ("segment", "classify"):
            mine, theirs = getattr(self, stage), getattr(recorded, stage)
            like_theirs = mine.model_copy(update={"precision": theirs.precision, "device": theirs.device})
            if mine.precision == "auto" and like_theirs == theirs:
                found[stage] = theirs.precision
        return self.as_used(**found)

    def allows(self, recorded: Recipe) -> bool:
        """Return whether what was made with other settings is what these ask for: "auto" is any precision."""
        return self.in_precision_of(recorded) == recorded

    @classmethod
    def paper(cls) -> Recipe:
        """Return the paper's values (Rao et al. 2024) for every stage."""
        return cls(
            segment=SegmentParams(
                model="vit_h",
                tile_size=512,
                tile_overlap=0,
                brighten_per="tile",
                prompts="grid",
                points_per_side=32,
                points_per_batch=32,
                predicted_iou_min=0.92,
                stability_min=0.96,
            ),
            classify=ClassifyParams(model="paper", use_context=False, subtypes=()),
            count=CountParams(rule="paper", edges="all", max_cells_per_region=4),
        )
