from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from napari_bloodcell import samples
from napari_bloodcell.backends import https_transfer
from napari_bloodcell.errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def picture(tmp_path: Path) -> bytes:
    path = tmp_path / "picture.jpg"
    Image.fromarray(np.full((48, 64, 3), 200, np.uint8)).save(path)
    return path.read_bytes()


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes | None], list[str]]:
    """Answer with some bytes, or with no connection; returns what was asked for."""
    monkeypatch.setenv("NAPARI_BLOODCELL_CACHE", str(tmp_path / "cache"))

    def answer(content: bytes | None) -> list[str]:
        asked: list[str] = []

        def receive(url: str, part: Path, **_options: Any) -> Any:
            asked.append(url)
            if content is None:
                raise https_transfer.TransferError("there is no connection")
            part.write_bytes(content)
            yield from ()

        monkeypatch.setattr(https_transfer, "iter_receive", receive)
        return asked

    return answer


def test_the_field_is_fetched_once(network: Any, picture: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "BCCD_SHA256", hashlib.sha256(picture).hexdigest())
    asked = network(picture)
    data, attributes, kind = samples.bccd_field()[0]
    samples.bccd_field()
    assert asked == [samples.BCCD_URL]
    assert data.shape == (48, 64, 3)
    assert (attributes["name"], kind) == ("BCCD field", "image")


def test_without_network_it_says_so_and_what_to_do(network: Any) -> None:
    network(None)
    with pytest.raises(DownloadError, match=r"no connection.*put it into .*samples"):
        samples.bccd_field()


def test_another_file_than_the_field_is_not_kept(network: Any, picture: bytes, tmp_path: Path) -> None:
    network(picture)
    with pytest.raises(DownloadError, match="SHA-256"):
        samples.bccd_field()
    assert not list((tmp_path / "cache" / "samples").iterdir())
