"""The server of the page that shows a study: who may ask, and what comes when."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from helpers import command
from helpers.watched import TOKEN, TRIALS, held, watching, write_search, write_trial

from nutgraf.cli import trial
from nutgraf.cli.main import main
from nutgraf.search.ledger import LEDGER, REQUESTS, Ledger, Steer
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
    samples = client.post("/watch/samples", json={"name": "4"}, headers=HEADERS).json()
    assert samples["evaluations"][0]["examples"] == 80
    for path in ("curves", "samples"):
        answer = client.post(f"/watch/{path}", json={"name": "../4"}, headers=HEADERS)
        assert (answer.status_code, "there is no training" in answer.json()["error"]) == (422, True)


@pytest.mark.parametrize("path", ["events", "curves", "samples", "report", "steer"])
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
    for path in (
        "/",
        "/watch.js",
        "/charts.js",
        "/table.js",
        "/watch.css",
        "/token.js",
        "/judging/",
    ):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "Secret" not in answer.text
    answer = client.post("/judging/judge/next", json={"judge": "Ann"})
    assert (answer.status_code, "has no token" in answer.json()["error"]) == (403, True)
    answer = client.post("/judging/judge/next", json={"judge": "Ann"}, headers=HEADERS)
    assert "has not been" in answer.json()["error"]  # scored
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


def test_a_trial_is_steered_from_the_page(client: httpx2.Client, run: Path) -> None:
    def asked(**body: object) -> tuple[int, str]:
        answer = client.post("/watch/steer", json=body, headers=HEADERS)
        return answer.status_code, answer.json().get("error", "")

    waiting = run / TRIALS / REQUESTS
    assert asked(do="stop", trial=4) == (
        422, f"the search of {run} has ended: trials are steered while it runs",
    )  # fmt: skip
    waiting.mkdir()
    assert asked(do="stop", trial=4) == (200, "")
    assert asked(do="add", values={"train.learning_rate": 3e-4}) == (200, "")
    one, two = (json.loads(path.read_text()) for path in sorted(waiting.iterdir()))
    assert (one["do"], one["trial"]) == ("stop", 4)
    assert two["values"]["train.learning_rate"] == 3e-4
    assert len(two["values"]) == 3  # the others are the study's
    for body, words in (
        ({"do": "stop", "trial": 9}, "there is no trial 9 yet"),
        ({"do": "stop"}, "there is no trial None yet"),
        ({"do": "add", "values": {"lora.r": 4}}, "lora.r is not searched"),
        ({"do": "add", "values": {"train.learning_rate": -1}}, "train.learning_rate is -1"),
        ({"do": "delete", "trial": 4}, "do"),
        ({"do": "stop", "trial": "../4"}, "trial"),
    ):
        status, error = asked(**body)
        assert (status, words in error) == (422, True), error
    assert len(list(waiting.iterdir())) == 2
    cross = {"headers": {**HEADERS, "Content-Type": "text/plain"}, "content": "{}"}
    assert client.post("/watch/steer", **cross).status_code == 415
    shutil.rmtree(waiting)


def test_the_command_prints_what_became_of_it(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ("trial", "stop", "4", "--run", str(run))
    ledger = Ledger(run / TRIALS)
    assert command.run(*words).stdout == (
        f"Noted. Nothing runs this study: `nutgraf run --run {run}` does it.\n"
    )
    (name,) = (path.stem for path in (run / TRIALS / REQUESTS).iterdir())
    asked = iter([name] * 3)
    monkeypatch.setattr("nutgraf.pipeline.steering.ask", lambda *_: next(asked))
    monkeypatch.setattr(trial, "PATIENCE", 0.2)
    with held(run):
        waits = "Noted. The search does it when it next hears of a trial.\n"
        assert command.run(*words).stdout == waits
        ledger.add(Steer(name, 1.0, "stop", 4, {}, 1, 80, 1, 80))
        assert command.run(*words).stdout == "A person stopped trial 4 after 80 articles.\n"
        (run / TRIALS / LEDGER).unlink()
        Ledger(run / TRIALS).add(Steer(name, 1.0, "stop", 4, {}, refused="it has ended already"))
        assert command.run(*words, status=2).stderr == "nutgraf: it has ended already\n"
    monkeypatch.undo()
    for bad, error in (
        (("stop", "0"), "argument TRIAL: '0' is no number from 1 on"),
        (("stop", "9"), "there is no trial 9 yet: `nutgraf watch` lists them"),
        (("stop", "4", "--lora.r", "4"), "--lora.r is a setting of a study: not taken here"),
        (("add", "--lora.r", "4"), "lora.r is not searched"),
        (("add", "--train.learning-rate", "up"), "train.learning_rate is 'up'"),
        (("add", "--like", "9"), "--like 9: there is no such trial yet"),
    ):
        said = command.run("trial", *bad, "--run", str(run), status=2).stderr
        assert said.startswith(f"nutgraf: {error}")
    error = command.run("trial", "stop", "1", "--run", str(tmp_path), status=2).stderr
    assert error.endswith("has not begun: trials are steered while it runs\n")
    ledger.close()
    (run / TRIALS / LEDGER).unlink()
