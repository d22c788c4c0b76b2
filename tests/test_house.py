"""What keeps the code and its pages in order, beside ruff, mypy and import-linter."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_LINES, MOST_FILES = 600, 14
CODE = [path for folder in ("src", "benchmarks", "training", "docs") for path in sorted((ROOT / folder).rglob("*.py"))]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_module_is_longer_than_600_lines() -> None:
    lengths = {named(path): len(path.read_text(encoding="utf-8").splitlines()) for path in CODE}
    assert len(lengths) > 150
    assert {name: n for name, n in lengths.items() if n > MOST_LINES} == {}


def test_no_room_has_more_than_14_files_and_the_package_no_more_than_14_entries() -> None:
    package = ROOT / "src" / "napari_bloodcell"
    rooms = [path.parent for path in package.rglob("__init__.py")]
    assert len(rooms) > 15
    assert {named(room): n for room in rooms if (n := len(list(room.glob("*.py")))) > MOST_FILES} == {}
    entries = [path for path in package.iterdir() if path.suffix == ".py" or path in rooms]
    assert len(entries) <= MOST_FILES


def test_the_picture_of_the_architecture_is_that_of_the_code() -> None:
    drawing = runpy.run_path(str(ROOT / "docs" / "draw_architecture.py"))
    assert drawing["PICTURE"].read_text(encoding="utf-8") == drawing["draw"](), "run python docs/draw_architecture.py"


def test_the_floors_of_the_picture_are_imported_from_above_only() -> None:
    drawing = runpy.run_path(str(ROOT / "docs" / "draw_architecture.py"))
    levels = drawing["floors"]()
    pairs = drawing["imports_between"](levels)
    assert len(pairs) > 10
    assert all(upper < lower for upper, lower in pairs)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{named(page)}: {target}"


def test_a_figure_that_the_method_page_repeats_stands_on_the_page_that_it_links_to() -> None:
    page = ROOT / "docs" / "method.md"
    n_figures = 0
    for paragraph in re.split(r"\n\s*\n|\n- ", page.read_text(encoding="utf-8")):
        figures = re.findall(r"\*\*([\d.,]+(?: %)?)\*\*", paragraph)
        linked = [page.parent / target for target in re.findall(r"\]\(([\w./-]+\.md)", paragraph)]
        there = " ".join(target.read_text(encoding="utf-8") for target in linked)
        n_figures += len(figures)
        assert [figure for figure in figures if figure not in there] == []
    assert n_figures > 8
