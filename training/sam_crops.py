"""Random training crops of the embedded SAM: geometry, overlaps, and the colours of other laboratories."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from napari_bloodcell.models.embedded.network import CLASSES, HEAT_STRIDE, RBC_DIAMETER_PX
from napari_bloodcell.models.embedded.proposals import GLASS
from napari_bloodcell.models.embedded.sam import normalise
from training.sam_data import CACHE_DIAMETER_PX, PLATELET, RBC, UNKNOWN, WBC, Field

CROP_PX = 160
CUT_SHARE = 0.4
"""Of the crops drawn around a rare cell, how many are placed so that their edge cuts it."""
WHITE_CELL_WEIGHT = 4.0
"""How much more often a field with a white cell is drawn than one of its laboratory without."""


@dataclass
class Crop:
    """One training example; polygons are in pixels of the crop."""

    image: np.ndarray  # (3, CROP, CROP) float32, normalised
    heat: np.ndarray  # (3, H/4, W/4) float32
    heat_weight: np.ndarray
    sides: np.ndarray  # (4, H/4, W/4) log sides
    sides_weight: np.ndarray  # (H/4, W/4)
    polygons: list[np.ndarray]
    kinds: np.ndarray
    boxes: np.ndarray  # (N, 4) x0, y0, x1, y1
    maskable: np.ndarray  # (N,) bool
    weights: np.ndarray


class CropSampler:
    """Draws crops from fields; laboratories are drawn evenly, smears and boxes by `smear_share`."""

    def __init__(self, fields: list[Field], seed: int, smear_share: float = 0.4) -> None:
        self.rng = np.random.default_rng(seed)
        self.groups: dict[str, list[Field]] = {}
        for f in fields:
            self.groups.setdefault(f.laboratory, []).append(f)
        smears = [g for g in self.groups if g.startswith("HS")]
        others = [g for g in self.groups if not g.startswith("HS")]
        weight = {g: smear_share / len(smears) for g in smears}
        sizes = np.array([np.sqrt(len(self.groups[g])) for g in others])
        weight |= {g: (1 - smear_share) * s / sizes.sum() for g, s in zip(others, sizes, strict=True)}
        self.names = list(weight)
        self.p = np.array([weight[g] for g in self.names])
        self.field_weights = {g: _white_cells_first(members) for g, members in self.groups.items()}
        self.ratios = self._colour_bank(fields)

    def _colour_bank(self, fields: list[Field]) -> np.ndarray:
        """Mean optical density per channel of the cells of every field, as a unit-mean direction and a strength."""
        bank = []
        for f in fields:
            density = -np.log(np.clip(f.image[::3, ::3].reshape(-1, 3) / f.background, 0.02, 1.5))
            cells = density[density.mean(1) > 0.12]
            if len(cells) > 20:
                bank.append(np.median(cells, 0).clip(0.02))
        return np.array(bank)

    def draw(self) -> Crop:
        """Draw one crop."""
        rng = self.rng
        name = self.names[rng.choice(len(self.names), p=self.p)]
        group = self.groups[name]
        field = group[rng.choice(len(group), p=self.field_weights[name])]
        jitter = float(np.clip(np.exp(rng.normal(0, 0.22)), 0.55, 1.75))
        scale = RBC_DIAMETER_PX / CACHE_DIAMETER_PX * jitter
        matrix = self._placement(field, scale)
        density, inside = _warp(field, matrix)
        objects = [(_apply(matrix, c.polygon), c) for c in field.cells]
        pasted: list[np.ndarray] = []
        if rng.random() < 0.5:
            density, pasted = self._paste(field, matrix, density, inside, objects, scale)
        image = self._photograph(density, inside)
        return self._targets(image, inside, objects, pasted)

    def _placement(self, field: Field, scale: float) -> np.ndarray:
        """Affine field → crop (2, 3): rotation, flip, scale, and a place that shows cells."""
        rng = self.rng
        angle = rng.choice(4) * np.pi / 2 if rng.random() < 0.5 else rng.uniform(0, 2 * np.pi)
        c, s = np.cos(angle) * scale, np.sin(angle) * scale
        linear = np.array([[c, -s], [s, c]])
        if rng.random() < 0.5:
            linear[:, 0] *= -1
        stretch = np.exp(rng.normal(0, 0.05, 2))
        linear = linear * stretch[:, None]
        height, width = field.image.shape[:2]
        extent = np.abs(linear) @ np.array([width, height])
        middle = np.array([width, height]) / 2
        if max(extent) > CROP_PX:
            rare = [k.polygon.mean(0) for k in field.cells if k.kind in (WBC, PLATELET)]
            if rare and rng.random() < 0.55:
                away = rng.uniform(-40, 40, 2)
                if rng.random() < CUT_SHARE:
                    away[rng.integers(2)] = rng.choice([-1, 1]) * (CROP_PX / 2 + rng.uniform(-30, 18)) / scale
                middle = rare[rng.integers(len(rare))] + away
            else:
                middle = rng.uniform(0, 1, 2) * np.array([width, height])
                free = CROP_PX / 2 / scale * 0.9
                middle = np.clip(
                    middle,
                    np.minimum(free, middle * 0 + width / 2),
                    np.maximum([width - free, height - free], [width / 2, height / 2]),
                )
        target = CROP_PX / 2 + rng.uniform(-8, 8, 2)
        return np.concatenate([linear, (target - linear @ middle)[:, None]], 1)

    def _paste(self, field, matrix, density, inside, objects, scale):
        """Lay isolated red cells of the same field over others: optical densities add (Beer-Lambert)."""
        rng = self.rng
        sources = [c for c in field.cells if c.isolated]
        if not sources:
            return density, []
        hosts = [
            p for p, c in objects if c.kind == RBC and 0 < p[:, 0].mean() < CROP_PX and 0 < p[:, 1].mean() < CROP_PX
        ]
        pasted = []
        for _ in range(rng.integers(1, 8)):
            cell = sources[rng.integers(len(sources))]
            angle, size = rng.uniform(0, 2 * np.pi), scale * rng.uniform(0.9, 1.1)
            c, s = np.cos(angle) * size, np.sin(angle) * size
            linear = np.array([[c, -s], [s, c]])
            if hosts and rng.random() < 0.8:
                host = hosts[rng.integers(len(hosts))]
                spread = np.sqrt(np.prod(np.ptp(host, 0)))
                direction = rng.uniform(0, 2 * np.pi)
                place = host.mean(0) + rng.uniform(0.45, 1.05) * spread * np.array(
                    [np.cos(direction), np.sin(direction)]
                )
            else:
                place = rng.uniform(0, CROP_PX, 2)
            x, y = np.clip(place, 0, CROP_PX - 1).astype(int)
            if not inside[y, x]:
                continue
            own = np.concatenate([linear, (place - linear @ cell.polygon.mean(0))[:, None]], 1)
            added, _ = _warp(field, own)
            polygon = _apply(own, cell.polygon)
            soft = Image.new("L", (CROP_PX, CROP_PX))
            grown = polygon.mean(0) + (polygon - polygon.mean(0)) * 1.06
            ImageDraw.Draw(soft).polygon([tuple(p) for p in grown], fill=255)
            alpha = np.asarray(soft.filter(ImageFilter.GaussianBlur(0.8)), np.float32)[..., None] / 255
            strength = rng.uniform(0.65, 1.0)
            density = density + strength * np.clip(added, 0, None) * alpha * inside[..., None]
            pasted.append(polygon)
            hosts.append(polygon)
        return density, pasted

    def _photograph(self, density: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Optical density → normalised image with another stain, glass, light and camera."""
        rng = self.rng
        if rng.random() < 0.4 and len(self.ratios):
            cells = density[inside & (density.mean(-1) > 0.12)]
            if len(cells) > 50:
                wanted = self.ratios[rng.integers(len(self.ratios))] * np.exp(rng.normal(0, 0.1, 3))
                ratio = np.clip(wanted / np.median(cells, 0).clip(0.02), 0.3, 3.0)
                density = density * ratio.astype(np.float32)
        if rng.random() < 0.8:
            mix = np.eye(3) + rng.normal(0, rng.choice([0.06, 0.18]), (3, 3))
            density = density @ mix.T.astype(np.float32)
        density = density * np.float32(np.exp(rng.normal(0, 0.25)))
        image = np.exp(-density) * GLASS
        if rng.random() < 0.06:
            image = np.repeat(image @ rng.dirichlet([2, 2, 2])[:, None], 3, -1)
        if rng.random() < 0.4:
            yy, xx = np.mgrid[0:CROP_PX, 0:CROP_PX] / CROP_PX - 0.5
            slope = rng.normal(0, 0.12, 2)
            image = image * (1 + slope[0] * yy + slope[1] * xx - abs(rng.normal(0, 0.1)) * (yy**2 + xx**2))[..., None]
        spread = rng.choice([0.03, 0.08, 0.25], p=[0.5, 0.35, 0.15])
        image = image * np.exp(rng.normal(0, spread, 3)) * np.exp(rng.normal(0, 0.08))
        pil = Image.fromarray(image.clip(0, 255).astype(np.uint8))
        if rng.random() < 0.15:
            self._clutter(pil)
        if rng.random() < 0.35:
            pil = pil.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.4)))
        elif rng.random() < 0.2:
            pil = pil.filter(ImageFilter.UnsharpMask(1.5, int(rng.uniform(30, 150)), 0))
        if rng.random() < 0.15:
            stream = io.BytesIO()
            pil.save(stream, "JPEG", quality=int(rng.integers(25, 80)))
            pil = Image.open(stream).convert("RGB")
        out = np.asarray(pil, np.float32)
        if rng.random() < 0.35:
            out = out + rng.normal(0, rng.uniform(1, 9), out.shape).astype(np.float32)
        if rng.random() < 0.2:
            out = 255 * (out.clip(0, 255) / 255) ** np.float32(np.exp(rng.normal(0, 0.25)))
        return (normalise(out.clip(0, 255)) * inside[..., None]).transpose(2, 0, 1).astype(np.float32)

    def _clutter(self, pil: Image.Image) -> None:
        """Draw what is no cell: scale bars, letters, hairs and pointers."""
        rng = self.rng
        draw = ImageDraw.Draw(pil)
        for _ in range(rng.integers(1, 4)):
            colour = (
                tuple(int(v) for v in rng.integers(0, 256, 3))
                if rng.random() < 0.4
                else (int(rng.integers(0, 90)),) * 3
            )
            x, y = rng.uniform(0, CROP_PX, 2)
            kind = rng.integers(3)
            if kind == 0:
                length = rng.uniform(10, 60)
                draw.line([x, y, x + length, y], fill=colour, width=int(rng.integers(1, 4)))
                draw.text(
                    (x, y + rng.integers(-14, 3)),
                    f"{rng.integers(1, 100)} um",
                    fill=colour,
                    font_size=float(rng.uniform(7, 16)),
                )
            elif kind == 1:
                points = np.array([x, y]) + rng.uniform(-60, 60, (4, 2)).cumsum(0)
                draw.line([tuple(p) for p in points], fill=colour, width=int(rng.integers(1, 4)), joint="curve")
            else:
                words = "".join(rng.choice(list("ABCDEFGHabcdefgh0123456789 "), rng.integers(1, 9)))
                draw.text((x, y), words, fill=colour, font_size=float(rng.uniform(7, 22)))

    def _targets(self, image, inside, objects, pasted) -> Crop:
        n = CROP_PX // HEAT_STRIDE
        heat = np.zeros((len(CLASSES), n, n), np.float32)
        weight = np.ones((len(CLASSES), n, n), np.float32)
        sides, sides_weight = np.zeros((4, n, n), np.float32), np.zeros((n, n), np.float32)
        grid = (np.arange(n) + 0.5) * HEAT_STRIDE
        polygons, kinds, boxes, maskable, weights = [], [], [], [], []
        nearest = np.full((n, n), np.inf, np.float32)
        everything = [(p, c.kind, c.has_mask, c.weight) for p, c in objects] + [(p, RBC, True, 1.0) for p in pasted]
        for polygon, kind, has_mask, w in everything:
            whole = np.ptp(polygon, 0)
            low, high = polygon.min(0).clip(0, CROP_PX), polygon.max(0).clip(0, CROP_PX)
            size = high - low
            if min(size) <= 1:
                continue
            mid = (low + high) / 2
            share = np.prod(size) / max(np.prod(whole), 1)
            sigma = max(1.8, 0.1 * float(np.sqrt(np.prod(size))))
            spot = np.exp(-0.5 * ((grid[None, :] - mid[0]) ** 2 + (grid[:, None] - mid[1]) ** 2) / sigma**2)
            area = (np.abs(grid[None, :] - mid[0]) < size[0] / 2) & (np.abs(grid[:, None] - mid[1]) < size[1] / 2)
            if kind == UNKNOWN:
                weight[RBC][area] = 0
                weight[PLATELET][area] = 0
                continue
            if min(size) < 4 or share < 0.12:
                weight[kind][area] = 0
                continue
            heat[kind] = np.maximum(heat[kind], spot)
            cy, cx = (int(v // HEAT_STRIDE) for v in (min(mid[1], CROP_PX - 1), min(mid[0], CROP_PX - 1)))
            heat[kind, cy, cx] = 1
            if not has_mask:
                continue
            for yy in range(max(cy - 1, 0), min(cy + 2, n)):
                for xx in range(max(cx - 1, 0), min(cx + 2, n)):
                    d = (grid[xx] - mid[0]) ** 2 + (grid[yy] - mid[1]) ** 2
                    to_sides = np.array([grid[xx] - low[0], grid[yy] - low[1], high[0] - grid[xx], high[1] - grid[yy]])
                    if d < nearest[yy, xx] and to_sides.min() > 0.5:
                        nearest[yy, xx] = d
                        sides[:, yy, xx] = np.log(to_sides / (RBC_DIAMETER_PX / 2))
                        sides_weight[yy, xx] = 1.0
            polygons.append(polygon)
            kinds.append(kind)
            boxes.append([*low, *high])
            maskable.append(max(size) < 90)
            weights.append(w)
        return Crop(
            image,
            heat,
            weight,
            sides,
            sides_weight,
            polygons,
            np.array(kinds, int),
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(maskable, bool),
            np.array(weights, np.float32),
        )


def _white_cells_first(fields: list[Field]) -> np.ndarray:
    """Return how often each field is drawn, (N,), sum 1."""
    weights = np.array([WHITE_CELL_WEIGHT if any(c.kind == WBC for c in f.cells) else 1.0 for f in fields])
    return weights / weights.sum()


def _apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def _warp(field: Field, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Optical density (CROP, CROP, 3) of the field under the affine, and which pixels lie inside the field."""
    inverse = np.linalg.inv(matrix[:, :2])
    offset = -inverse @ matrix[:, 2]
    coefficients = (*inverse[0], offset[0], *inverse[1], offset[1])
    size = (CROP_PX, CROP_PX)
    pil = Image.fromarray(field.image)
    warped = np.asarray(
        pil.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR), np.float32
    )
    x, y = np.meshgrid(np.arange(CROP_PX) + 0.5, np.arange(CROP_PX) + 0.5)
    sx = inverse[0, 0] * x + inverse[0, 1] * y + offset[0]
    sy = inverse[1, 0] * x + inverse[1, 1] * y + offset[1]
    inside = (sx > 0.5) & (sy > 0.5) & (sx < field.image.shape[1] - 0.5) & (sy < field.image.shape[0] - 0.5)
    density = -np.log(np.clip(warped, 3, 255) / field.background.astype(np.float32))
    density[~inside] = 0
    return density, inside


class CropStream(torch.utils.data.IterableDataset):
    """Endless stream of collated batches, for one worker process per stream."""

    def __init__(self, fields: list[Field], batch: int, seed: int) -> None:
        self.fields, self.batch, self.seed = fields, batch, seed

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        sampler = CropSampler(self.fields, self.seed * 1000 + (info.id if info else 0))
        while True:
            yield collate([sampler.draw() for _ in range(self.batch)], sampler.rng)


def window_masks(polygons: list[np.ndarray], origins: np.ndarray, side: int) -> np.ndarray:
    """Rasterise polygons at stride 2 in windows with the given (x, y) origins: (N, side, side) float32."""
    out = np.zeros((len(polygons), side, side), np.float32)
    for k, (polygon, origin) in enumerate(zip(polygons, origins, strict=True)):
        canvas = Image.new("L", (side * 2, side * 2))
        ImageDraw.Draw(canvas).polygon([tuple(p) for p in (polygon - origin) * 1.0 * 1.0], fill=255)
        out[k] = np.asarray(canvas, np.float32).reshape(side, 2, side, 2).mean((1, 3)) / 255
    return out


def collate(crops: list[Crop], rng: np.random.Generator, per_crop: int = 10) -> dict:
    """Stack crops and choose up to `per_crop` cells of each for the mask decoder; rarer kinds first."""
    picked = []
    for b, c in enumerate(crops):
        candidates = np.flatnonzero(c.maskable)
        order = sorted(candidates, key=lambda i: (c.kinds[i] == RBC) + rng.random() * 0.9)
        picked += [(b, i) for i in order[:per_crop]]
    stack = lambda name: torch.from_numpy(np.stack([getattr(c, name) for c in crops]))  # noqa: E731
    return {
        "image": stack("image"),
        "heat": stack("heat"),
        "heat_weight": stack("heat_weight"),
        "sides": stack("sides"),
        "sides_weight": stack("sides_weight"),
        "index": torch.tensor([b for b, _ in picked], dtype=torch.long),
        "boxes": torch.from_numpy(np.array([crops[b].boxes[i] for b, i in picked], np.float32).reshape(-1, 4)),
        "weights": torch.tensor([float(crops[b].weights[i]) for b, i in picked]),
        "polygons": [crops[b].polygons[i] for b, i in picked],
    }
