"""Models to the Hub and back, by a small Hub on the loopback address.

It knows what `huggingface_hub` asks of the real one to make a repository, upload files as they are
or as LFS objects, commit, list and download; of Xet, the Hub's own way with large files, nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nutgraf.cli import export

TOKEN = "hf_" + "t" * 20
COMMIT = "c" * 40


class Hub:
    """Repositories by name, each files by path; `private` ones; LFS objects by hash."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.objects: dict[str, bytes] = {}
        self.checked: list[str] = []
        self.address = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and answer: an object becomes JSON, bytes go as they are."""
        asked = json.loads(body) if body[:1] in (b"{", b"[") and "\n" not in body.decode() else None
        if path == "/api/repos/create":
            name = f"{asked.get('organization', 'me')}/{asked['name']}"
            if name in self.repositories:
                return 409, {"url": f"{self.address}/{name}"}
            self.repositories[name] = {}
            self.private |= {name} if asked.get("private") or asked.get("visibility") else set()
            return 200, {"url": f"{self.address}/{name}", "name": name}
        if path == "/api/validate-yaml":
            self.checked.append(asked["content"])
            return 200, {"errors": [], "warnings": []}
        if match := re.fullmatch(r"/objects/(\w+)", path):
            if method == "PUT":
                assert hashlib.sha256(body).hexdigest() == match[1]
                self.objects[match[1]] = body
            return 200, b""
        if match := re.fullmatch(r"/([\w-]+/[\w-]+)\.git/info/lfs/objects/batch", path):
            actions = [
                {**o, "actions": {"upload": {"href": f"{self.address}/objects/{o['oid']}"}}}
                for o in asked["objects"]
            ]
            return 200, {"transfer": "basic", "objects": actions}
        match = re.fullmatch(r"/(?:api/models/)?([\w-]+/[\w-]+)/(\w+)/([^/]+)(?:/(.*))?", path)
        if not match or match[1] not in self.repositories:
            return 404, {"error": "Repository not found"}
        return self._of(match[1], match[2], match[4], asked, body)

    def _of(self, name: str, verb: str, file: str, asked: Any, body: bytes) -> tuple[int, Any]:
        files = self.repositories[name]
        if verb == "preupload":
            modes = [
                {"path": f["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular"}
                for f in asked["files"]
            ]  # fmt: skip
            return 200, {"files": modes}
        if verb == "commit":
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.objects[value["oid"]]
            return 200, {"commitUrl": f"{self.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT}
        if verb == "revision":
            return 200, {"id": name, "sha": COMMIT}
        if verb == "tree":
            return 200, [
                {"type": "file", "path": path, "size": len(data), "oid": _etag(data)}
                for path, data in files.items()
            ]
        return (200, files[file]) if verb == "resolve" and file in files else (404, {})


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    here = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.split("?")[0]
            public = path.startswith(("/objects/", "/api/validate-yaml"))
            if not public and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                status, content = 401, {"error": "Invalid username or password."}
            else:
                status, content = here.answer(self.command, path, body)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{_etag(data)}"')
            self.send_header("X-Repo-Commit", COMMIT)
            if not isinstance(content, bytes):
                self.send_header("Content-Type", "application/json")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_POST = do_PUT = _reply  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield here
    server.shutdown()
    server.server_close()


def with_hub(hub: Hub, home: Path, code: str, token: str = TOKEN) -> subprocess.CompletedProcess:
    """The code in a process of its own, for the Hub's address is read once."""
    own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_TOKEN": token,
           "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
    code = f"from pathlib import Path\nfrom nutgraf.core import hub\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **own}, capture_output=True, text=True
    )


def test_a_model_goes_to_the_hub_and_comes_back(
    hub: Hub, final_best_model: Path, tmp_path: Path
) -> None:
    push = f"print(hub.upload(Path({str(final_best_model)!r}), 'someone/news'))"
    done = with_hub(hub, tmp_path / "home", push)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{hub.address}/someone/news/commit/{COMMIT}\n"
    files = {p.name: p.read_bytes() for p in final_best_model.iterdir()}
    assert hub.repositories["someone/news"] == files
    assert hub.private == {"someone/news"}
    assert set(hub.checked) == {files["README.md"].decode()}
    assert files["adapter_model.safetensors"] in hub.objects.values()  # sent as an LFS object

    hub.repositories["someone/news"]["evil.py"] = b"import os"
    hub.repositories["someone/news"]["pytorch_model.bin"] = b"pickle"
    back = with_hub(hub, tmp_path / "other", "print(hub.download('someone/news', None))")
    assert back.returncode == 0, back.stderr
    copy = Path(back.stdout.strip())
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == files

    again = with_hub(hub, tmp_path / "home", push)  # the repository is there already
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("hub.upload(Path('.'), 'someone/news')", "401 Unauthorized"),
        (
            "hub.download('someone/none', None)",
            "could not be taken from the Hub (Client error '401",
        ),
        ("hub.upload(Path('.'), 'no name')", "UserError: no name could not be pushed: Repo id"),
    ],
)
def test_a_refusal_is_told(hub: Hub, tmp_path: Path, code: str, expected: str) -> None:
    done = with_hub(hub, tmp_path, code, token="hf_" + "x" * 20)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("nutgraf.core.errors.")
    assert expected in last
    assert hub.repositories == {}


def test_export_pushes_what_it_made(
    final_best_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pushed: list[tuple] = []
    monkeypatch.setattr(
        export.hub, "upload", lambda *arguments: pushed.append(arguments) or "its address"
    )
    export.run(final_best_model, tmp_path / "out", "adapter", push_to_hub="someone/news")
    assert pushed == [(tmp_path / "out", "someone/news")]
    assert capsys.readouterr().out == f"Model: {tmp_path / 'out'}\nPushed: its address\n"
