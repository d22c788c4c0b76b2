"""Downloads a large file over https into a partial file, resuming where an earlier try stopped."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
import urllib.request
from collections.abc import Generator
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from napari_bloodcell.core.protocols import Progress

_CHUNK = 1 << 20
_TIMEOUT_S = 30.0
_MOST_TRIES = 20


class TransferError(Exception):
    """The file could not be fetched; the message gives the reason, not the remedy."""


class _ConnectionBrokeError(Exception):
    """The connection broke; the partial file holds what was received."""


def iter_receive(url: str, part: Path, *, size_bytes: int, what: str) -> Generator[Progress, None, None]:
    """Fetch an https address into a partial file, yielding progress in bytes.

    Bytes in the partial file are not fetched again. After an interruption it goes on as long as every try brings
    something. `size_bytes` counts if the server does not tell. Raises `TransferError`.
    """
    for _ in range(_MOST_TRIES):
        before = part.stat().st_size if part.exists() else 0
        try:
            yield from _iter_once(url, part, before, size_bytes, what)
        except _ConnectionBrokeError as error:
            after = part.stat().st_size if part.exists() else 0
            if after <= before:
                raise TransferError(str(error)) from error
            time.sleep(0.2)
        else:
            return
    raise TransferError("the connection broke again and again")


def _iter_once(url: str, part: Path, start: int, size_bytes: int, what: str) -> Generator[Progress, None, None]:
    """Receive the bytes from `start` on into the partial file."""
    headers = {"User-Agent": "napari-bloodcell", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = _open(urllib.request.Request(url, headers=headers))
    except HTTPError as error:
        error.close()
        if error.code == 416 and start:
            return  # nothing left to send; the checksum tells whether the file is complete
        raise TransferError(f"the server answered {error.code} {error.reason}") from error
    except (URLError, OSError, HTTPException) as error:
        raise _ConnectionBrokeError(f"there is no connection ({getattr(error, 'reason', None) or error})") from error
    with response:
        start, total = _position(response, start, size_bytes)
        free = shutil.disk_usage(part.parent).free
        if free < total - start:
            needed = (total - start) / 1e6
            raise TransferError(f"{part.parent} has {free / 1e6:.0f} MB free, and {needed:.0f} MB are needed")
        done = start
        with _writing(part), part.open("r+b" if start else "wb") as file:
            file.seek(start)
            while chunk := _read(response):
                file.write(chunk)
                done += len(chunk)
                yield Progress(done, total, what)
    if done < total:
        raise _ConnectionBrokeError(f"the connection broke after {done} of {total} bytes")


def _position(response: HTTPResponse, start: int, size_bytes: int) -> tuple[int, int]:
    """Return the position of the first byte sent by the server and the size of the whole file."""
    if response.status == 206:
        sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", "").strip())
        if sent is None or int(sent[1]) != start:
            raise TransferError("the server sent another part of the file than was asked for")
        return start, int(sent[2])
    if response.status != 200:
        raise TransferError(f"the server answered {response.status} {response.reason}")
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else size_bytes  # a server without ranges sends all of it again


@contextlib.contextmanager
def _writing(part: Path) -> Generator[None, None, None]:
    """Turn errors of the disk into `TransferError`."""
    try:
        yield
    except OSError as error:
        raise TransferError(f"{part} could not be written ({error})") from error


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read(_CHUNK)
    except (OSError, HTTPException) as error:
        raise _ConnectionBrokeError(f"the connection broke ({error})") from error


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https only."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """Return the request to follow."""
        if urlsplit(newurl).scheme != "https":
            raise HTTPError(newurl, code, f"redirect to {newurl}, which is not https", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(request: urllib.request.Request) -> HTTPResponse:
    """Open an https address, and nothing else."""
    if request.type != "https":
        raise URLError(f"unknown url type: {request.type}")
    response: HTTPResponse = urllib.request.build_opener(_HttpsRedirects).open(request, timeout=_TIMEOUT_S)
    return response
