"""Draws the floors of the program and who imports whom, from the code's own imports.

python docs/draw_architecture.py  # writes docs/images/architecture.svg
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from xml.sax.saxutils import escape

import grimp

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
PACKAGE = "napari_bloodcell"
TITLES = (
    *("what users touch", "the whole chain", "slides, training", "what lies on disk"),
    *("the stages", "what they work with", "words"),
)
WIDTH, LEFT, TOP, BOX_PX, GAP_PX, CHAR_PX = 980, 176, 12, 24, 6, 7.0
ARROWS_PX = 130


def floors() -> list[list[str]]:
    """Return the modules of each floor of the import-linter contract, top floor first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = contracts["contracts"][0]["layers"]
    return [layer.split(" | ") for layer in layers]


def imports_between(levels: list[list[str]]) -> list[tuple[int, int]]:
    """Return which floors import which: (importing, imported), counted from the top."""
    graph = grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)
    floor_of = {name: i for i, level in enumerate(levels) for name in level}
    pairs = set()
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            a, b = (name.split(".")[1] if "." in name else "" for name in (module, other))
            if a in floor_of and b in floor_of and floor_of[a] != floor_of[b]:
                pairs.add((floor_of[a], floor_of[b]))
    return sorted(pairs)


def draw() -> str:
    """Return the picture as SVG."""
    levels = floors()
    shapes, middles, y = [], [], TOP
    right = WIDTH - ARROWS_PX
    for title, level in zip(TITLES, levels, strict=True):
        x, top, boxes = float(LEFT), y, []
        for name in level:
            width = CHAR_PX * len(name) + 14
            if x + width > right - 8:
                x, y = float(LEFT), y + BOX_PX + GAP_PX
            boxes.append(
                f'<rect class="box" x="{x:.0f}" y="{y + 8}" width="{width:.0f}" height="{BOX_PX}" rx="4"/>'
                f'<text class="name" x="{x + width / 2:.0f}" y="{y + 24}">{escape(name)}</text>'
            )
            x += width + GAP_PX
        height = y + BOX_PX + 16 - top
        shapes.append(f'<rect class="floor" x="8" y="{top}" width="{right - 8}" height="{height}" rx="6"/>')
        shapes.append(f'<text class="title" x="20" y="{top + height / 2 + 5:.0f}">{escape(title)}</text>')
        shapes += boxes
        middles.append(top + height / 2)
        y += BOX_PX + 16 + GAP_PX
    for upper, lower in imports_between(levels):
        reach = 14 + 13 * (lower - upper)
        start, end = middles[upper] + 2 * (lower - upper) - 4, middles[lower] - 2 * (lower - upper) + 4
        out = right + reach
        shapes.append(
            '<path class="arrow" marker-end="url(#tip)" '
            f'd="M {right} {start:.0f} C {out} {start:.0f}, {out} {end:.0f}, {right + 3} {end:.0f}">'
            f"<title>{escape(TITLES[upper])} → {escape(TITLES[lower])}</title></path>"
        )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 4}" font-family="sans-serif">',
            "<style>.floor{fill:#f3f4f6;stroke:#9ca3af}.box{fill:#fff;stroke:#b91c1c}.name{font-size:12px;text-anchor:middle;"
            "fill:#111827}.title{font-size:13px;fill:#374151;font-weight:bold}.arrow{fill:none;stroke:#6b7280}</style>",
            '<defs><marker id="tip" viewBox="0 0 6 6" refX="5" refY="3" markerWidth="7" markerHeight="7" '
            'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L6 3L0 6z" fill="#6b7280"/></marker></defs>',
            f'<rect width="{WIDTH}" height="{y + 4}" fill="#fff"/>',
            *shapes,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
