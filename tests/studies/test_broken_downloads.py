"""A base on the Hub, on the loopback address: downloads that break, no connection, a moved head."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http
from safetensors.torch import load_file, save_file

from nutgraf.config import ModelConfig
from nutgraf.core.errors import Failure
from nutgraf.modeling import load

CONFIG = ModelConfig(base="someone/tiny", device="cpu", dtype="fp32")
NAME = "model.safetensors"


class Hub:
    """One repository: its files at its head, whose name follows from what is in them."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.sent_of: dict[str, int] = {}  # bytes after which a file's transfer breaks, for good

    @property
    def head(self) -> str:
        return hashlib.sha1(b"".join(self.files.values())).hexdigest()

    def answer(self, path: str) -> bytes | None:
        if match := re.fullmatch(r"/someone/tiny/resolve/[^/]+/(.+)", path):
            return self.files.get(match[1])
        if re.fullmatch(r"/api/models/someone/tiny(/revision/.+)?", path):
            siblings = [{"rfilename": name} for name in self.files]
            about = {"id": "someone/tiny", "sha": self.head, "siblings": siblings}
            return json.dumps(about).encode()
        return None


def point_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    here = Hub({path.name: path.read_bytes() for path in sorted(tiny_base.iterdir())})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            body = here.answer(path)
            status = 404 if body is None else 200
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            start = int(asked[1]) if asked else 0
            self.send_response(206 if status == 200 and start else status)
            self.send_header("ETag", f'"{hashlib.sha1(body or b"").hexdigest()}"')
            self.send_header("X-Repo-Commit", here.head)
            self.send_header("Content-Length", str(len(body or b"") - start))
            if body is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if self.command == "GET" and body is not None:
                end = here.sent_of.get(path.rpartition("/")[2], len(body))
                self.wfile.write(body[start : max(start, end)])

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    point_to(f"http://127.0.0.1:{server.server_port}", monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    load.load_base.cache_clear()
    yield here
    load.load_base.cache_clear()
    server.shutdown()
    server.server_close()


def test_a_download_that_breaks_is_one_line_and_is_carried_on(hub: Hub) -> None:
    whole = len(hub.files[NAME])
    hub.sent_of[NAME] = whole // 2
    with pytest.raises(Failure, match=r"model\.base 'someone/tiny' could not be loaded") as caught:
        load.load_base(CONFIG)
    assert "\n" not in str(caught.value)
    assert "that this machine reaches or has cached" in str(caught.value)
    del hub.sent_of[NAME]
    assert load.load_base(CONFIG).num_parameters() > 0


def test_without_a_connection_it_says_so_and_what_is_cached_is_enough(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None))  # retries wait
    there = constants.ENDPOINT
    point_to("http://127.0.0.1:1", monkeypatch)  # where nobody listens
    with pytest.raises(Failure, match=r"'someone/tiny' could not be loaded.*reaches or has cached"):
        load.load_tokenizer(CONFIG)
    point_to(there, monkeypatch)
    load.load_tokenizer(CONFIG)
    load.load_base(CONFIG)
    load.load_base.cache_clear()
    point_to("http://127.0.0.1:1", monkeypatch)
    assert load.load_base(CONFIG).num_parameters() > 0
    load.load_base.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load.load_base(CONFIG).num_parameters() > 0


def test_a_head_that_has_moved_is_another_base(hub: Hub, tmp_path: Path) -> None:
    from nutgraf.modeling.base_identity import base_identity

    load.load_base(CONFIG)
    before = base_identity(CONFIG)
    (tmp_path / NAME).write_bytes(hub.files[NAME])
    weights = load_file(tmp_path / NAME)
    save_file({name: w + 1 for name, w in weights.items()}, tmp_path / NAME, {"format": "pt"})
    hub.files[NAME] = (tmp_path / NAME).read_bytes()
    load.load_base.cache_clear()
    load.load_base(CONFIG)
    after = base_identity(CONFIG)
    assert after["weights"] != before["weights"]
    assert after["shape"] == before["shape"]
