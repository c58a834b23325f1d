"""The server of the page that shows a study: who may ask, and what comes when."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from helpers.watched import TOKEN, TRIALS, watching, write_search, write_trial

from nutgraf.cli.main import main
from nutgraf.serving.server import HttpServer
from nutgraf.serving.watch import beside

HEADERS = {"X-Nutgraf-Token": TOKEN}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_search(folder, "Secret words")
    return folder


@pytest.fixture(scope="module")
def client(run: Path) -> Iterator[httpx2.Client]:
    with watching(run) as address, httpx2.Client(base_url=address, timeout=30) as asking:
        yield asking


def test_news_come_as_events_and_only_news(client: httpx2.Client, run: Path) -> None:
    with client.stream("POST", "/watch/events", json={}, headers=HEADERS) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        pieces = answer.iter_text()

        def event() -> dict:
            text = next(pieces)
            while not text.endswith("\n\n"):
                text += next(pieces)
            return json.loads(text.removeprefix("event: news\ndata: "))

        first = event()
        assert first["whole"]
        assert list(first["trials"]) == ["1", "2", "3", "4", "5"]
        began = time.monotonic()
        write_trial(run, 4, [2.8, 2.4])
        second = event()
        while "trials" not in second:  # the machine may have news too
            second = event()
        assert 0.5 < time.monotonic() - began < 20
        assert (list(second["trials"]), second["whole"]) == (["4"], False)
        assert "folder" not in second
    curves = client.post("/watch/curves", json={"name": "4"}, headers=HEADERS).json()
    assert curves[-1]["examples"] == 120
    answer = client.post("/watch/curves", json={"name": "../4"}, headers=HEADERS)
    assert (answer.status_code, "there is no training" in answer.json()["error"]) == (422, True)


@pytest.mark.parametrize("path", ["events", "curves", "report"])
def test_without_the_token_nobody_reads(client: httpx2.Client, path: str) -> None:
    for headers in ({}, {"X-Nutgraf-Token": f"{TOKEN}x"}):
        answer = client.post(f"/watch/{path}", json={"name": "4"}, headers=headers)
        assert (answer.status_code, "has no token" in answer.json()["error"]) == (403, True)
    evil = {**HEADERS, "Origin": "https://evil.example"}
    assert client.post(f"/watch/{path}", json={"name": "4"}, headers=evil).status_code == 403
    evil = {**HEADERS, "Host": "evil.example"}
    assert client.post(f"/watch/{path}", json={"name": "4"}, headers=evil).status_code == 403


def test_the_page_holds_nothing_of_the_study_and_the_report_is_behind_a_secret(
    client: httpx2.Client, run: Path
) -> None:
    for path in ("/", "/watch.js", "/charts.js", "/table.js", "/watch.css", "/token.js"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "Secret" not in answer.text
    assert client.get("/report.html").status_code == 404
    address = client.post("/watch/report", json={}, headers=HEADERS).json()["path"]
    assert client.get(f"/{address}").status_code == 404  # there is none yet
    (run / "report.html").write_text("<p>the report")
    answer = client.get(f"/{address}")
    assert answer.text == "<p>the report"
    assert answer.headers["content-security-policy"].startswith("sandbox")


def test_the_command_prints_an_address_with_a_token_or_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(HttpServer, "run", lambda self, sockets: None)
    assert main(["watch", "--run", str(run), "--port", "0"]) == 0
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/#token=[\w-]{22}\n", capsys.readouterr().out)
    assert main(["watch", "--run", str(run / "no")]) == 2
    assert "does not exist: give the folder of a study" in capsys.readouterr().err


def test_a_page_beside_a_study_ends_with_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with beside(tmp_path / "new"):
        out, end = "", time.monotonic() + 30
        while not out.endswith("\n"):
            assert time.monotonic() < end
            time.sleep(0.05)
            out += capfd.readouterr().out
        address, _, token = out.strip().partition("/#token=")
        answer = httpx2.post(f"{address}/watch/report", json={}, headers={"X-Nutgraf-Token": token})
        assert answer.status_code == 200
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(address)
    assert not (tmp_path / TRIALS).exists()
