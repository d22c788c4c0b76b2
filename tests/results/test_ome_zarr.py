"""What is written as OME-Zarr is valid by the format's own schemas."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from napari_bloodcell.results.ome_zarr import create_smear, write_ome_zarr

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator


@pytest.fixture(scope="module")
def schemas() -> dict[str, Draft202012Validator]:
    """The schemas of OME-Zarr 0.5, which the package ome-zarr-io has with it, by their name."""
    package = importlib.util.find_spec("ome_zarr_io")
    if package is None or package.origin is None:
        pytest.skip("ome-zarr-io is not installed")
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT202012

    files = Path(package.origin).parent.glob("spec/0.5/schemas/*.schema")
    known = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
    resources = [Resource.from_contents(schema, DRAFT202012) for schema in known.values()]
    registry = resources @ Registry()
    return {name: Draft202012Validator(schema, registry=registry) for name, schema in known.items()}


@pytest.mark.parametrize("names", [["RBC", "WBC"], []])
@pytest.mark.parametrize("pixel_size_um", [0.25, None])
def test_every_group_is_valid_by_the_official_schema(
    schemas: dict[str, Draft202012Validator], tmp_path: Path, names: list[str], pixel_size_um: float | None
) -> None:
    path, about = tmp_path / "smear.ome.zarr", {"names": names, "name": "smear", "pixel_size_um": pixel_size_um}
    if names:
        cells = np.ones((1100, 40), np.int32)
        write_ome_zarr(path, image=np.zeros((1100, 40, 3), np.uint8), cells=cells, types=cells.astype("u1"), **about)
    else:
        create_smear(path, shape=(1100, 40), **about)

    def check(group: str, *kinds: str) -> None:
        attributes = json.loads((path / group / "zarr.json").read_text(encoding="utf-8"))["attributes"]
        for kind in kinds:
            assert [error.message for error in schemas[kind].iter_errors(attributes)] == [], (group, kind)

    check("", "image", "ome_zarr")
    for name in ("cells", "types"):
        check(f"labels/{name}", "image", "label", "ome_zarr", *(["strict_label"] if names and name == "types" else []))
