"""Results as AnnData, which anndata itself writes and reads."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pytest

from napari_bloodcell.core.errors import InputError
from tests.results.test_store import a_result

if TYPE_CHECKING:
    from pathlib import Path

# anndata 0.12 sets an option that pandas 3 has no use for
pytestmark = pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment':DeprecationWarning")


def test_cells_become_anndata_with_their_places_and_are_read_back(tmp_path: Path) -> None:
    result = replace(a_result(), pixel_size_um=0.25)
    result.to_anndata().write_h5ad(tmp_path / "cells.h5ad")
    found = anndata.read_h5ad(tmp_path / "cells.h5ad")
    table = result.table
    assert found.obs_names.tolist() == [str(i) for i in table.index]
    assert found.obs["cell_type"].tolist() == table["cell_type"].tolist()
    assert found.obs["bbox_y0"].tolist() == table["bbox_y0"].tolist()
    assert np.array_equal(found.obsm["spatial"], table[["centroid_x", "centroid_y"]])
    assert found[:, "area_px"].X.ravel().tolist() == table["area_px"].tolist()
    assert np.allclose(found[:, "probability"].X.ravel(), table["probability"])
    about = found.uns["napari_bloodcell"]
    assert (about["image"], about["pixel_size_um"], dict(about["counts"])) == ("field 1", 0.25, result.counts)
    assert about["models"]["segment"]["name"] == "embedded"


def test_spatialdata_finds_region_and_instance(tmp_path: Path) -> None:
    found = a_result().to_anndata()
    keys = found.uns["spatialdata_attrs"]
    assert set(found.obs[keys["region_key"]]) == {keys["region"]}
    assert found.obs[keys["instance_key"]].tolist() == a_result().table.index.tolist()


def test_without_anndata_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(InputError, match=r"AnnData needs anndata.*napari-bloodcell\[anndata\]"):
        a_result().to_anndata()
