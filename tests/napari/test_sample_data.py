from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.request import Request

import numpy as np
import pytest
from PIL import Image

from napari_bloodcell.core.errors import DownloadError
from napari_bloodcell.models import download, weights
from napari_bloodcell.napari import sample_data
from tests.models.test_weights import Server, open_plain_http

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


SAMPLE = weights.SAMPLE


def pin(monkeypatch: pytest.MonkeyPatch, picture: bytes) -> None:
    """Let this picture be the sample that is expected."""
    monkeypatch.setattr(weights, "SAMPLE", replace(SAMPLE, sha256=hashlib.sha256(picture).hexdigest()))


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
                raise download.TransferError("there is no connection")
            part.write_bytes(content)
            yield from ()

        monkeypatch.setattr(weights, "iter_receive", receive)
        return asked

    return answer


def test_the_field_is_fetched_once(network: Any, picture: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch, picture)
    asked = network(picture)
    data, attributes, kind = sample_data.bccd_field()[0]
    sample_data.bccd_field()
    assert asked == [SAMPLE.url]
    assert data.shape == (48, 64, 3)
    assert (attributes["name"], kind) == ("BCCD field", "image")


def test_without_network_it_says_so_and_what_to_do(network: Any) -> None:
    network(None)
    with pytest.raises(DownloadError, match=r"no connection.*put it, named BloodImage_00000.jpg, into .*samples"):
        sample_data.bccd_field()


def test_another_file_than_the_field_is_not_kept(network: Any, picture: bytes, tmp_path: Path) -> None:
    network(picture)
    with pytest.raises(DownloadError, match="SHA-256"):
        sample_data.bccd_field()
    assert kept(tmp_path) == []


@pytest.fixture
def server(tmp_path: Path, picture: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A web server on this machine, which answers what is asked of the pinned address."""
    monkeypatch.setenv("NAPARI_BLOODCELL_CACHE", str(tmp_path / "cache"))
    pin(monkeypatch, picture)

    def open_here(request: Request) -> Any:
        assert request.full_url == SAMPLE.url
        return open_plain_http(Request(running.url, headers=dict(request.header_items())))

    with Server() as running:
        running.data = picture
        monkeypatch.setattr(download, "_open", open_here)
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def kept(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "cache" / "samples").iterdir() if path.suffix != ".lock"]


def test_the_field_comes_over_the_network_once(server: Server, tmp_path: Path) -> None:
    assert sample_data.bccd_field()[0][0].shape == (48, 64, 3)
    sample_data.bccd_field()
    assert len(server.requests) == 1
    assert kept(tmp_path) == ["BloodImage_00000.jpg"]


def test_a_field_that_comes_in_two_pieces_is_whole(server: Server, picture: bytes) -> None:
    server.breaks, server.break_after = 1, 100
    assert weights.download("bccd").read_bytes() == picture
    assert server.requests == [None, "bytes=100-"]


def test_a_field_that_breaks_off_for_good_is_told_and_not_shown(server: Server, tmp_path: Path) -> None:
    server.breaks, server.break_after = 100, 0
    with pytest.raises(DownloadError, match=r"the connection broke.*Check the network"):
        sample_data.bccd_field()
    assert "BloodImage_00000.jpg" not in kept(tmp_path)


def test_what_another_page_answers_is_told_and_not_kept(server: Server, tmp_path: Path) -> None:
    server.data = b"<html>please log in</html>"
    with pytest.raises(DownloadError, match="is not bccd: its SHA-256 is"):
        sample_data.bccd_field()
    assert kept(tmp_path) == []


def test_a_page_that_is_gone_is_told(server: Server) -> None:
    server.status = 404
    with pytest.raises(DownloadError, match="the server answered 404"):
        sample_data.bccd_field()
