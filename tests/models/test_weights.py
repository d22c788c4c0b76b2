"""Weights are downloaded once, resumed, checked, and written whole or not at all.

The product opens https only; these tests put another opener and another list of models in its place, which speak
plain http with a server on the loopback interface.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import subprocess
import sys
import textwrap
import threading
import urllib.request
from urllib.error import HTTPError, URLError

import pytest

from napari_bloodcell.core.errors import DownloadError, ModelError
from napari_bloodcell.models import download as transfer
from napari_bloodcell.models import weights

DATA = bytes(range(256)) * 20_000  # 5 MB
SHA256 = hashlib.sha256(DATA).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `data`; breaks the connection after `break_after` bytes of a response while `breaks` is positive."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.breaks, self.break_after, self.ranges_work, self.status = DATA, 0, 2_000_000, True, 200
        self.requests: list[str | None] = []
        self.bytes_sent = 0

    def handle_error(self, request, client_address):
        pass

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/model.pth"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server: Server = self.server
        wanted = self.headers.get("Range")
        server.requests.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges_work else 0
        if server.status != 200:
            self.send_error(server.status)
            return
        if start and start >= len(server.data):
            self.send_error(416)
            return
        body = server.data[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.data) - 1}/{len(server.data)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.breaks > 0:
            server.breaks -= 1
            body = body[: server.break_after]
        server.bytes_sent += len(body)
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)


def open_plain_http(request):
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10)


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(folder))
    return folder


@pytest.fixture
def model(server, cache, monkeypatch):
    entry = weights.ModelFile("tiny", "model.pth", SHA256, len(DATA), "Apache-2.0", server.url, "for tests")
    monkeypatch.setitem(weights.OFFICIAL, "tiny", entry)
    monkeypatch.setattr(transfer, "_open", open_plain_http)
    return entry


def left_in(folder):
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock")


def test_a_download_arrives_whole_with_progress_up_to_its_size(model, cache):
    steps = []
    path = weights.download("tiny", steps.append)
    assert path == cache / "model.pth"
    assert path.read_bytes() == DATA
    assert left_in(cache) == ["model.pth"]
    received = [s.done for s in steps if s.what.startswith("downloading")]
    assert received == sorted(received)
    assert received[-1] == len(DATA)
    assert {s.total for s in steps} == {len(DATA)}


def test_a_second_download_asks_the_server_for_nothing(model, server):
    weights.download("tiny")
    weights.download("tiny")
    assert len(server.requests) == 1


def test_a_broken_connection_is_resumed_where_it_stopped(model, server):
    server.breaks = 1
    assert weights.download("tiny").read_bytes() == DATA
    assert server.requests == [None, "bytes=2000000-"]
    assert server.bytes_sent == len(DATA)


def test_a_download_that_was_cancelled_goes_on_the_next_time(model, server, cache):
    work = weights.iter_download("tiny")
    assert next(work).done == 1 << 20
    work.close()
    assert left_in(cache) == ["model.pth.part"]
    assert weights.download("tiny").read_bytes() == DATA
    assert server.requests == [None, f"bytes={1 << 20}-"]


def test_a_connection_that_never_brings_anything_ends_in_an_error_and_no_file(model, server, cache):
    server.breaks, server.break_after = 100, 0
    with pytest.raises(DownloadError, match="the connection broke"):
        weights.download("tiny")
    assert "model.pth" not in left_in(cache)


def test_a_server_without_ranges_sends_everything_again(model, server, cache):
    server.ranges_work = False
    cache.mkdir()
    (cache / "model.pth.part").write_bytes(DATA[:1000])
    assert weights.download("tiny").read_bytes() == DATA


def test_what_is_not_the_expected_file_is_refused_and_deleted(model, server, cache):
    server.data = DATA[:-1] + b"!"
    with pytest.raises(DownloadError, match=f"expected {SHA256}"):
        weights.download("tiny")
    assert left_in(cache) == []


def test_a_damaged_left_over_is_thrown_away_and_fetched_anew(model, server, cache):
    cache.mkdir()
    (cache / "model.pth.part").write_bytes(b"x" * 1000)
    assert weights.download("tiny").read_bytes() == DATA
    assert server.requests == ["bytes=1000-", None]


@pytest.mark.parametrize("left_over", [DATA, DATA + b"too long"])
def test_a_left_over_of_full_length_is_taken_if_it_is_right_and_replaced_if_not(model, server, cache, left_over):
    cache.mkdir()
    (cache / "model.pth.part").write_bytes(left_over)
    assert weights.download("tiny").read_bytes() == DATA
    assert left_in(cache) == ["model.pth"]


def test_a_damaged_file_in_the_cache_is_found_and_replaced(model, cache):
    cache.mkdir()
    (cache / "model.pth").write_bytes(DATA[:-1])
    with pytest.raises(ModelError, match="damaged or not tiny"):
        weights.verify("tiny")
    weights.download("tiny")
    assert weights.verify("tiny") == cache / "model.pth"


def test_a_file_put_there_by_hand_is_taken_without_any_network(model, server, cache):
    cache.mkdir()
    (cache / "model.pth").write_bytes(DATA)
    assert weights.download("tiny").read_bytes() == DATA
    assert server.requests == []


def test_without_network_the_error_names_the_address_and_the_folder(model, cache, monkeypatch):
    def no_network(request):
        raise URLError("no such host")

    monkeypatch.setattr(transfer, "_open", no_network)
    with pytest.raises(DownloadError) as caught:
        weights.download("tiny")
    message = str(caught.value)
    assert "no such host" in message
    assert model.url in message
    assert str(cache) in message
    assert weights.CACHE_VARIABLE in message


def test_a_server_that_refuses_is_named_with_its_answer(model, server, cache):
    server.status = 404
    with pytest.raises(DownloadError, match="answered 404"):
        weights.download("tiny")
    assert left_in(cache) == []


def test_a_disk_without_room_is_an_error_before_anything_is_written(model, cache, monkeypatch):
    usage = transfer.shutil.disk_usage(cache.parent)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with pytest.raises(DownloadError, match="0 MB free, and 5 MB are needed"):
        weights.download("tiny")
    assert left_in(cache) == []


def test_a_cache_folder_that_cannot_be_made_is_an_error_that_names_the_variable(model, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(DownloadError, match=weights.CACHE_VARIABLE):
        weights.download("tiny")


def test_two_processes_that_download_at_once_fetch_the_file_once(model, server, cache):
    script = textwrap.dedent(
        f"""
        import urllib.request
        from napari_bloodcell.models import download, weights
        plain_http = urllib.request.build_opener(urllib.request.ProxyHandler({{}}))
        download._open = lambda request: plain_http.open(request, timeout=10)
        weights.OFFICIAL["tiny"] = weights.ModelFile(
            "tiny", "model.pth", {SHA256!r}, {len(DATA)}, "Apache-2.0", {server.url!r}, "for tests"
        )
        weights.download("tiny")
        """
    )
    processes = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [p.wait(60) for p in processes] == [0, 0]
    assert (cache / "model.pth").read_bytes() == DATA
    assert server.bytes_sent == len(DATA)


def test_the_product_opens_nothing_but_https(server):
    for url in (server.url, "file:///etc/hostname", "ftp://127.0.0.1/model.pth"):
        with pytest.raises(URLError, match="unknown url type"):
            transfer._open(urllib.request.Request(url))
    assert server.requests == []


def test_the_product_follows_no_redirect_away_from_https():
    request = urllib.request.Request("https://example.org/a")
    redirects = transfer._HttpsRedirects()
    with pytest.raises(HTTPError, match="not https"):
        redirects.redirect_request(request, None, 302, "Found", {}, "http://example.org/b")
    followed = redirects.redirect_request(request, None, 302, "Found", {}, "https://example.org/b")
    assert followed.full_url == "https://example.org/b"


def test_the_official_checkpoints_are_listed_with_https_address_licence_and_checksum():
    official = {m.name: m for m in weights.list_models() if m.url is not None}
    assert list(official) == ["vit_b", "vit_l", "vit_h"]
    for model in official.values():
        assert model.url == f"https://dl.fbaipublicfiles.com/segment_anything/{model.file_name}"
        assert model.licence == "Apache-2.0"
        assert len(bytes.fromhex(model.sha256)) == 32


def test_the_shipped_weights_are_what_their_checksums_say():
    shipped = [m for m in weights.list_models() if m.url is None]
    for model in shipped:
        assert weights.verify(model.name) == model.path
        assert weights.download(model.name) == model.path


def test_shipped_weights_are_listed_and_a_damaged_one_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "SHIPPED_FOLDER", tmp_path)
    (tmp_path / "one.safetensors").write_bytes(DATA)
    (tmp_path / "SHA256SUMS").write_text(f"{SHA256}  one.safetensors\n")
    assert weights.verify("one") == tmp_path / "one.safetensors"
    (tmp_path / "one.safetensors").write_bytes(DATA[1:])
    with pytest.raises(ModelError, match="Reinstall"):
        weights.verify("one")


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ModelError, match=r"'vit_x'.*vit_b, vit_l, vit_h"):
        weights.find("vit_x")


def test_verifying_what_is_not_there_says_how_to_get_it(cache):
    with pytest.raises(ModelError, match="models download vit_b"):
        weights.verify("vit_b")


def test_the_cache_folder_is_the_platforms_unless_the_user_sets_one(monkeypatch, tmp_path):
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path))
    assert weights.where() == tmp_path
    monkeypatch.setenv(weights.CACHE_VARIABLE, " ")
    assert weights.where().name == "napari-bloodcell"
    assert weights.OFFICIAL["vit_b"].path.parent == weights.where()


def test_the_list_of_weights_needs_no_torch():
    script = "import sys, napari_bloodcell.models.weights as w; w.list_models(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
