"""The systems of a model folder in one memory, and the command that serves them."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from nutgraf.cli import main
from nutgraf.config import GenerateConfig, LoraSettings, ModelConfig, PromptConfig
from nutgraf.data.prompts import Renderer
from nutgraf.evaluation.support import worth
from nutgraf.generation.decoding import generate
from nutgraf.generation.extractive import lead3
from nutgraf.generation.reading import load_reader
from nutgraf.generation.summarizer import SummaryResult
from nutgraf.modeling.adapters import fresh_adapter, merge_adapter, with_adapter, with_adapters
from nutgraf.modeling.base_identity import base_identity
from nutgraf.modeling.load import choose_device, load_base, load_tokenizer
from nutgraf.pocket import newswire
from nutgraf.serving.models import Models, loaded

CONFIG = ModelConfig(dtype="fp32", device="cpu")  # exact: no ties from rounding
SETTINGS = GenerateConfig(max_new_tokens=24, min_new_tokens=12, no_repeat_ngram=2)
ARTICLES = [story.article for story in newswire.stories("test", 3, seed=3)]
SECRET = "Zanzibar"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with two adapters that differ from the base and from each other."""
    run = tmp_path_factory.mktemp("run")
    for seed, place in enumerate(("final_best_model", "models/baseline")):
        with fresh_adapter(load_base(CONFIG), LoraSettings(r=4), seed) as model:
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(weight, std=0.1)
            model.save_pretrained(str(run / place))
    recipe = {
        "base": base_identity(CONFIG),
        "model": CONFIG.model_dump(),
        "prompt": PromptConfig().model_dump(),
        "generate": SETTINGS.model_dump(),
    }
    (run / "final_best_model" / "nutgraf.json").write_text(json.dumps(recipe))
    (run / "models" / "baseline" / "train.json").write_text(
        json.dumps({"base": base_identity(CONFIG)})
    )
    return run


@pytest.fixture(scope="module")
def models(folder: Path) -> Iterator[Models]:
    load_base.cache_clear()
    with loaded(str(folder)) as models:
        load_base.cache_clear()  # adapters sit in the base: others take another
        yield models


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, list[str]]:
    """What each system writes when nothing else is loaded."""
    base, tokenizer, device = load_base(CONFIG), load_tokenizer(CONFIG), choose_device(CONFIG)
    renderer = Renderer(tokenizer, PromptConfig())
    prompts = [renderer.prompt(article).ids for article in ARTICLES]

    def texts(model: object) -> list[str]:
        candidates = dict(generate(model, tokenizer, prompts, SETTINGS, device))  # type: ignore[arg-type]
        return [renderer.text(candidates[i].written[0].ids) for i in range(len(prompts))]

    texts_by_system = {"zero_shot": texts(base), "lead3": [lead3(article) for article in ARTICLES]}
    for name, place in (("best", "final_best_model"), ("baseline", "models/baseline")):
        with with_adapter(base, folder / place) as model:
            texts_by_system[name] = texts(model)
    return texts_by_system


def write(
    models: Models, system: str, articles: list[str], streamed: list[bool], *more: Any
) -> tuple[list[SummaryResult], list[list[str]]]:
    """Summaries of one batch, and the pieces that each came in."""
    results: dict[int, SummaryResult] = {}
    pieces: list[list[str]] = [[] for _ in articles]

    def on_event(i: int, event: str | SummaryResult) -> bool:
        assert i not in results
        if isinstance(event, SummaryResult):
            results[i] = event
        elif event:
            pieces[i].append(event)
        return True

    models.write(system, articles, streamed, on_event, *more)
    return [results[i] for i in range(len(articles))], pieces


def test_systems_beside_each_other_write_as_they_do_alone_streamed_or_not(alone, models):
    assert len({tuple(texts) for texts in alone.values()}) == 4
    assert list(models.systems) == ["best", "baseline", "zero_shot", "lead3"]
    for n, system in enumerate(("best", "zero_shot", "baseline", "best", "lead3", "zero_shot")):
        streamed = [(i + n) % 3 != 0 for i in range(len(ARTICLES))]
        results, pieces = write(models, system, ARTICLES, streamed)
        assert [result.summary for result in results] == alone[system]
        for text, parts, shown in zip(alone[system], pieces, streamed, strict=True):
            assert "".join(parts) == (text if shown else "")
            assert (len(parts) > 5) == (shown and system != "lead3")
        if system == "lead3":
            assert (results[0].finish_reason, results[0].prompt_tokens) == ("extract", 0)
        else:
            assert {result.finish_reason for result in results} <= {"stop", "length"}
            assert all(len(ARTICLES[0]) > result.new_tokens > 5 for result in results)


def test_a_request_can_shorten_summaries_and_not_lengthen_them(alone, models):
    for limit, length in ((5, 5), (1000, None)):
        results, pieces = write(models, "best", ARTICLES, [True] * 3, 1, limit)
        for result, parts, text in zip(results, pieces, alone["best"], strict=True):
            assert text.startswith(result.summary)
            assert (text == result.summary) == (length is None)
            assert "".join(parts) == result.summary
            assert (result.finish_reason, result.new_tokens) == ("length", 5) or length is None
    (result,), _ = write(models, "best", ARTICLES[:1], [False], 3, 5)
    assert [(one.new_tokens, one.finish_reason) for one in result.candidates] == [(5, "length")] * 3


def test_the_base_reads_what_adapters_have_written(alone, folder):
    reader = load_reader(CONFIG)  # before there are adapters in the same base
    texts = zip(ARTICLES, alone["best"], strict=True)
    expected = [reader.check(article, [text])[0] for article, text in texts]
    assert any(one["doubted"] for sentences in expected for one in sentences)
    with loaded(str(folder), check_facts=True) as models:
        for system in ("baseline", "best", "lead3"):
            results, pieces = write(
                models, system, ARTICLES, [True] * 3, 1, None, [True, False, True]
            )
            assert [result.summary for result in results] == alone[system]
            assert ["".join(parts) for parts in pieces] == alone[system]
            if system == "best":
                assert [result.facts for result in results] == [expected[0], None, expected[2]]
            elif system == "lead3":
                assert {result.facts for result in results} == {None}
        assert models.facts == worth(CONFIG)


def test_characters_of_several_tokens_come_whole(models, monkeypatch):
    text = "A “Čačak” — 😀 sign"
    ids = load_tokenizer(CONFIG)(text, add_special_tokens=False)["input_ids"]

    def decoded(*args: Any, **_: Any) -> None:
        for token in [*ids, None]:
            args[-1](0, token)

    monkeypatch.setattr("nutgraf.generation.engine.generate_candidates", decoded)
    (whole,), (pieces,) = write(models, "zero_shot", ARTICLES[:1], [True])
    assert whole.summary == text == "".join(pieces)
    assert "\ufffd" not in "".join(pieces)
    assert len(pieces) < len(ids)


def test_the_base_comes_back_bare(folder):
    base = load_base(CONFIG)
    adapters = {"best": folder / "final_best_model", "baseline": folder / "models/baseline"}
    with with_adapters(base, adapters) as use:
        names = [n for n, _ in use("best").named_parameters() if "lora_" in n]
        assert any(".best." in name for name in names)
        assert any(".baseline." in name for name in names)
        assert not any(weight.requires_grad for weight in use("baseline").parameters())
    assert not any("lora_" in name for name, _ in base.named_parameters())


def test_a_baseline_is_found_beside_a_model_at_home(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    with loaded(f"~/{folder.name}") as models:
        assert list(models.systems) == ["best", "baseline", "zero_shot", "lead3"]


def test_a_model_taken_away_has_no_baseline(folder):
    with loaded(str(folder / "final_best_model")) as models:
        assert list(models.systems) == ["best", "zero_shot", "lead3"]


def test_a_whole_model_is_served_alone(alone, folder, tmp_path, capsys):
    whole = tmp_path / "merged"
    merge_adapter(CONFIG, folder / "final_best_model", whole)
    load_tokenizer(CONFIG).save_pretrained(str(whole))
    recipe = (folder / "final_best_model" / "nutgraf.json").read_text()
    (whole / "nutgraf.json").write_text(recipe)
    with loaded(str(whole), batch_size=2) as models:
        assert (models.base, models.batch_size) == ("pocket", 2)
        assert list(models.systems) == ["best", "lead3"]
        assert write(models, "best", ARTICLES[:1], [False])[0][0].summary == alone["best"][0]
    for command in ("serve", "summarize"):
        assert main.main([command, "--model", str(whole), "--check-facts"]) == 2
        line = capsys.readouterr().err
        assert "--check-facts reads with the base, and" in line
        assert line.count("\n") == 1


def test_a_baseline_of_another_base_is_refused(folder, tmp_path, capsys):
    (tmp_path / "models" / "baseline").mkdir(parents=True)
    (tmp_path / "models" / "baseline" / "train.json").write_text('{"base": {"base": "other"}}')
    (tmp_path / "final_best_model").symlink_to(folder / "final_best_model")
    assert main.main(["serve", "--model", str(tmp_path), "--port", "0"]) == 2
    stderr = capsys.readouterr().err
    assert "models/baseline was trained on base {'base': 'other'}" in stderr
    assert stderr.count("\n") == 1
    (tmp_path / "models" / "baseline" / "train.json").write_text('{"ba')
    assert main.main(["serve", "--model", str(tmp_path), "--port", "0"]) == 2
    stderr = capsys.readouterr().err
    assert "models/baseline is damaged (JSONDecodeError: " in stderr
    assert stderr.count("\n") == 1


def test_an_address_in_use_is_told_in_one_line(folder, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main.main(["serve", "--model", str(folder), "--port", port]) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith(f"nutgraf: 127.0.0.1 port {port} cannot be had (")
    assert stderr.count("\n") == 1
    for words, said in (
        (["--port", "99999"], "--port is 99999: give a number from 0 to 65535"),
        (["--host", "192.0.2.1"], "give another with --host and --port"),
        (["--host", "a\0b"], "a\\x00b port 8000 cannot be had"),
        (["--host", ""], "'' port 8000 cannot be had"),
        (["--host", "é" * 99], "give another with --host and --port"),
    ):
        assert main.main(["serve", "--model", str(folder), *words]) == 2
        assert said in capsys.readouterr().err


def test_the_command_serves_until_it_is_stopped_and_logs_no_article(folder):
    words = ["serve", "--model", str(folder), "--port", "0", "--max-article", "3000"]
    words += ["--allow-origin", "https://proxy.example/path", "--check-facts"]
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        words += ["--host", "::1"]  # if this machine has IPv6
    running = subprocess.Popen(
        [sys.executable, "-m", "nutgraf", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stdout
        address = running.stdout.readline().strip()
        assert re.fullmatch(r"http://(\[::1\]|127\.0\.0\.1):\d+/", address)
        asked = {"articles": [f"{SECRET} {ARTICLES[0]}"], "systems": ["best", "zero_shot"]}
        asked["evidence"] = True
        proxy = {"Origin": "https://proxy.example"}
        answer = httpx2.post(f"{address}path/summaries", json=asked, headers=proxy, timeout=60)
        assert [s["system"] for s in answer.json()["summaries"]] == ["best", "zero_shot"]
        for summary in answer.json()["summaries"]:
            places = [(one["start"], one["end"]) for one in summary["facts"]]
            assert places == [(s["start"], s["end"]) for s in summary["evidence"]["sentences"]]
        refused = httpx2.post(f"{address}summaries", json={"articles": [f"{SECRET} " * 999]})
        assert "at most 3000 characters" in refused.json()["error"]
        page = httpx2.get(address)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        asked |= {"articles": ARTICLES * 5, "stream": True, "evidence": False}
        with httpx2.stream("POST", f"{address}summaries", json=asked, timeout=60) as stream:
            lines = stream.iter_lines()
            assert next(lines) == "event: piece"
            running.send_signal(signal.SIGTERM)
            *_, name, data, _ = lines
            assert name == "event: problem"  # the second system was not begun
            assert json.loads(data.removeprefix("data: "))["status"] == 503
    finally:
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 0
    assert SECRET not in out + err


def test_ctrl_c_ends_the_command_with_status_0(folder):
    """In a process of its own: a signal to this one could reach pytest itself."""
    running = subprocess.Popen(
        [sys.executable, "-m", "nutgraf", "serve", "--model", str(folder), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with running:
        assert running.stdout
        address = running.stdout.readline().strip()
        httpx2.get(f"{address}health", timeout=60).raise_for_status()
        running.send_signal(signal.SIGINT)
        assert running.communicate(timeout=60) == ("", "")
    assert running.returncode == 0
