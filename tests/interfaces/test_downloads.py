from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from graph_pes.interfaces.downloads import DownloadError, downloaded

CONTENTS = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENTS).hexdigest()


class Server(BaseHTTPRequestHandler):
    """One file; ``breaks`` is after how many bytes the next connection breaks off."""

    contents = CONTENTS
    etag = '"first"'
    breaks: int | None = None
    served: ClassVar[list[tuple[int, int]]] = []  # (status, bytes sent) of each request
    ranges = True

    def do_GET(self) -> None:
        start = 0
        wanted = self.headers.get("Range")
        if self.ranges and wanted and self.headers.get("If-Range", self.etag) == self.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(self.contents):
            self.send_error(416)
            return
        body = self.contents[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", self.etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        sent = body if self.breaks is None else body[: self.breaks]
        type(self).breaks = None
        self.wfile.write(sent)
        self.served.append((206 if start else 200, len(sent)))

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    monkeypatch.setenv("GRAPH_PES_CACHE", str(tmp_path))
    monkeypatch.delenv("GRAPH_PES_OFFLINE", raising=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "*")
    handler = type("Handler", (Server,), {"served": []})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.url = f"http://127.0.0.1:{http.server_port}/some/weights.model"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield handler
    http.shutdown()
    http.server_close()
    thread.join()


def test_once(server: type[Server], tmp_path: Path) -> None:
    path = downloaded(server.url, sha256=SHA256)
    assert path == tmp_path / "models" / "weights.model"
    assert path.read_bytes() == CONTENTS
    assert downloaded(server.url) == path
    assert len(server.served) == 1
    assert downloaded(server.url, "other.model").read_bytes() == CONTENTS


def test_resumed(server: type[Server]) -> None:
    server.breaks = 3000
    with pytest.raises(DownloadError, match="broke off after 3000 of 10240 bytes"):
        downloaded(server.url)
    path = downloaded(server.url)
    assert path.read_bytes() == CONTENTS
    assert server.served == [(200, 3000), (206, len(CONTENTS) - 3000)]
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "weights.model",
        "weights.model.lock",
        "weights.model.sha256",
    ]


def test_not_resumed_if_the_file_has_changed(server: type[Server]) -> None:
    server.breaks = 3000
    with pytest.raises(DownloadError):
        downloaded(server.url)
    server.etag, server.contents = '"second"', CONTENTS[::-1]
    assert downloaded(server.url).read_bytes() == CONTENTS[::-1]


def test_servers_that_only_send_everything(server: type[Server]) -> None:
    server.ranges, server.breaks = False, 3000
    with pytest.raises(DownloadError):
        downloaded(server.url)
    assert downloaded(server.url).read_bytes() == CONTENTS


def test_complete_but_not_renamed(server: type[Server], tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "weights.model.part").write_bytes(CONTENTS)
    assert downloaded(server.url, sha256=SHA256).read_bytes() == CONTENTS


def test_wrong_checksum(server: type[Server], tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=f"checksum {SHA256}, not 0{{64}}: it was discarded"):
        downloaded(server.url, sha256="0" * 64)
    assert not any(p.suffix in (".model", ".part") for p in (tmp_path / "models").iterdir())


@pytest.mark.parametrize("sha256", [None, SHA256])
def test_damaged_later(server: type[Server], sha256: str | None) -> None:
    path = downloaded(server.url, sha256=sha256)
    path.write_bytes(CONTENTS[:-1])
    with pytest.raises(DownloadError, match=f"not {SHA256}: it is damaged, or another file"):
        downloaded(server.url, sha256=sha256)
    path.unlink()
    assert downloaded(server.url, sha256=sha256).read_bytes() == CONTENTS


def test_offline(server: type[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPH_PES_OFFLINE", "1")
    path = tmp_path / "models" / "weights.model"
    message = f"GRAPH_PES_OFFLINE is set, and there is no file {path}. Download {server.url} on a"
    with pytest.raises(DownloadError, match=message.replace("$", "[$]")):
        downloaded(server.url)
    assert server.served == []
    path.write_bytes(CONTENTS)  # by hand
    assert downloaded(server.url) == path


def test_no_connection(server: type[Server], tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"can't be downloaded .*: there is no file .*model"):
        downloaded("http://127.0.0.1:9/weights.model")
