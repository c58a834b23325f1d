"""The server of the page for judges: who may ask, and what an answer holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from helpers.judged import TOKEN, judging, write_study

from nutgraf.cli.main import main
from nutgraf.data.rows import Article
from nutgraf.serving.server import HttpServer

HEADERS = {"X-Nutgraf-Token": TOKEN}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    run = tmp_path_factory.mktemp("run")
    articles = [Article(f"id-{i}", f"Secret story {i}.", "Reference.") for i in range(5)]
    texts = {name: [f"{name[0]} {i}. More of it." for i in range(5)] for name in ("best", "lead3")}
    write_study(run, articles, texts)
    with judging(run) as address, httpx2.Client(base_url=address, timeout=30) as asking:
        yield asking


def test_a_click_an_undo_and_the_result(client: httpx2.Client) -> None:
    def ask(path: str, **more: object) -> dict:
        answer = client.post(f"/judge/{path}", json={"judge": "Ann", **more}, headers=HEADERS)
        assert answer.status_code == 200, answer.text
        return answer.json()

    view = ask("next")
    assert view["left"]["sentences"] == [{"start": 0, "end": 4}, {"start": 5, "end": 16}]
    wrong = [{"side": "left", "start": 0, "end": 4}]
    after = ask("click", id=view["id"], verdict="good", seconds=2.5, wrong=wrong, seen=False)
    assert (after["judged"], after["settled"], after["id"] != view["id"]) == (1, False, True)
    result = ask("result")
    assert result["words"].startswith("best is preferred to lead3 in 50% of 1 articles")
    assert result["sequence"]["low"] < 0.5 < result["sequence"]["high"]
    assert ask("undo") == view


@pytest.mark.parametrize("path", ["next", "click", "undo", "result"])
def test_without_the_token_nobody_reads_or_writes(client: httpx2.Client, path: str) -> None:
    for headers in ({}, {"X-Nutgraf-Token": "é".encode()}, {"X-Nutgraf-Token": f"{TOKEN}x"}):
        answer = client.post(f"/judge/{path}", json={"judge": "Ann"}, headers=headers)
        assert answer.status_code == 403
        assert answer.json() == {
            "error": "this page has no token: open the address that was printed"
        }
        assert "Secret" not in answer.text


def test_other_sites_names_and_kinds_of_bodies_are_refused(client: httpx2.Client) -> None:
    def status(content: str = '{"judge": "Ann"}', kind: str = "application/json", **more) -> int:
        headers = {**HEADERS, "Content-Type": kind, **more}
        return client.post("/judge/next", content=content, headers=headers).status_code

    assert status() == 200
    assert status(Host="evil.example") == 403
    assert status(Origin="https://evil.example") == 403
    assert status(kind="text/plain") == 415
    for content in ("{", "[]", '{"judge": 7}', '{"judge": "Ann", "more": 1}', '{"judge": "../a"}'):
        assert status(content) == 422
    nan = '{"judge": "Ann", "id": "id-0", "verdict": "left", "seconds": NaN, "seen": false}'
    answer = client.post("/judge/click", content=nan, headers={
        **HEADERS, "Content-Type": "application/json"})  # fmt: skip
    assert answer.status_code == 422
    assert list(answer.json()) == ["error"]


def test_the_page_comes_without_a_token_and_holds_nothing_of_the_study(
    client: httpx2.Client,
) -> None:
    for path in ("/", "/judge.js", "/judge.css", "/page.css", "/show.js", "/stream.js"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert not [word for word in (TOKEN, "Secret", "More of it") if word in answer.text]
    assert client.get("/judgements/Ann.jsonl").status_code == 404
    answer = client.get("/openapi.json").json()
    assert answer == {"error": "GET /openapi.json: Not Found"}  # so no answer leads there


def test_the_command_prints_an_address_with_a_token_or_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(HttpServer, "run", lambda self, sockets: None)
    command = ["judge", "--run", str(tmp_path), "--port", "0"]
    assert main(command) == 1
    assert "has not been made: run `nutgraf run --run" in capsys.readouterr().err
    write_study(tmp_path, [Article("a", "b", "c")], {"best": ["x"], "lead3": ["y"]})
    assert main(command) == 0
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/#token=[\w-]{22}\n", capsys.readouterr().out)
    assert main([*command, "--systems", "best", "led3"]) == 2
    assert "has best, lead3: did you mean 'lead3'?" in capsys.readouterr().err
    assert main([*command, "--train.epochs", "2"]) == 2
