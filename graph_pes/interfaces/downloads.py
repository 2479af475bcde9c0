"""Files of weights: downloaded once, resumed where a download broke off, and checked."""

from __future__ import annotations

import hashlib
import logging
import os
import urllib.error
import urllib.request
from http.client import HTTPResponse
from pathlib import Path

from filelock import FileLock

from graph_pes.files import atomic_write, cache_folder

logger = logging.getLogger("graph_pes")

#: Bytes that are read at a time.
CHUNK = 1 << 20
#: Seconds without any answer after which a server is given up.
TIMEOUT = 60.0


class DownloadError(OSError):
    """A file is not there and can't be downloaded, or is not what it should be."""


def downloaded(url: str, name: str | None = None, sha256: str | None = None) -> Path:
    """The local copy of a file, which is downloaded if there is none.

    It is kept in ``models`` in the `cache_folder`. What was received of a download that broke
    off is kept too, and the next call asks for the rest. The checksum is verified whenever the
    file is used: where the publisher tells none, it is that of the first download.

    Parameters
    ----------
    url
        Where the file is.
    name
        Of the local file; the last part of the address by default.
    sha256
        The checksum, in hexadecimal digits, if it is known.

    Raises
    ------
    DownloadError
        If there is no local file, and no connection or ``$GRAPH_PES_OFFLINE`` is set: the
        message says which file to put where. Also if the checksum is wrong.
    """
    path = cache_folder() / "models" / (name or url.rsplit("/", 1)[-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        if not path.is_file():
            _download(url, path, sha256)
        _verify(url, path, sha256)
    return path


def _download(url: str, path: Path, sha256: str | None) -> None:
    """Fill ``path.part`` up and give it the name that it should have."""
    if os.environ.get("GRAPH_PES_OFFLINE", "0") not in ("", "0"):
        raise DownloadError(f"$GRAPH_PES_OFFLINE is set, and {_by_hand(url, path)}")
    part = path.with_name(f"{path.name}.part")
    logger.info("Downloading %s to %s", url, path)
    try:
        _receive(url, part)
    except OSError as error:  # URLError, timeouts and resets are of this kind
        message = f"{url} can't be downloaded ({error}): {_by_hand(url, path)}"
        raise DownloadError(message) from error
    if sha256 is not None and (found := checksum(part)) != sha256:
        part.unlink()
        raise DownloadError(f"{url} has the checksum {found}, not {sha256}: it was discarded")
    os.replace(part, path)


def _by_hand(url: str, path: Path) -> str:
    return (
        f"there is no file {path}. Download {url} on a machine that has a connection, and put the "
        "file there ($GRAPH_PES_CACHE chooses another folder)"
    )


def _receive(url: str, part: Path) -> None:
    """Append to a file what it lacks; start again if the file of the server has changed."""
    tag = part.with_name(f"{part.name}.etag")
    start = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "graph-pes"})
    if start > 0:
        request.add_header("Range", f"bytes={start}-")
        if tag.is_file():
            request.add_header("If-Range", tag.read_text())
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416:  # nothing is missing: the name was not changed only
            raise
        return
    with response:
        resumed = response.status == 206
        expected = response.headers.get("Content-Length")
        if etag := response.headers.get("ETag"):
            tag.write_text(etag)
        with open(part, "ab" if resumed else "wb") as file:
            before = file.tell()
            while chunk := response.read(CHUNK):
                file.write(chunk)
            received = file.tell() - before
    if expected is not None and received < int(expected):
        raise DownloadError(f"the connection broke off after {received} of {expected} bytes")
    tag.unlink(missing_ok=True)


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(url: str, path: Path, sha256: str | None) -> None:
    """Compare with the checksum that is known, or was noted when the file came."""
    note = path.with_name(f"{path.name}.sha256")
    found = checksum(path)
    if sha256 is None and not note.is_file():
        with atomic_write(note) as temporary:
            temporary.write_text(f"{found}  {path.name}\n")
    expected = sha256 or note.read_text().split()[0]
    if found != expected:
        raise DownloadError(
            f"{path} has the checksum {found}, not {expected}: it is damaged, or another file. "
            f"Delete it, and it is downloaded from {url} again"
            + ("" if sha256 else f"; if it is meant to be another one, delete {note}")
        )
