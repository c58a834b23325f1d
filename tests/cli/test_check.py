"""`nutgraf check`: what it prints, what it asks to change, and what it leaves alone."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import psutil
import pytest
from huggingface_hub import constants

from nutgraf.cli import check, check_example, main
from nutgraf.config import Config
from nutgraf.core import hub
from nutgraf.data import load, rows, sources
from nutgraf.data.prompts import Renderer
from nutgraf.modeling.load import load_tokenizer
from nutgraf.planning import benchmark
from nutgraf.planning.speeds import Speed, Speeds
from nutgraf.training import tracking

COLOUR = re.compile(r"\x1b\[([1-9]\d*)m(.*?)\x1b\[0m", re.DOTALL)
BASE = "someone/tiny"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few articles, and speeds as if they had been measured."""
    monkeypatch.setattr(check, "MAX_ARTICLES", {"train": 24, "validation": 2, "test": 8})
    speed = Speed(6e10, 1.2e11, 0.1)
    speeds = Speeds(speed, speed, 2e11, 2e11, 0.05, "nothing")
    monkeypatch.setattr(benchmark, "measure_speeds", lambda *args: speeds)


def printed(capsys: pytest.CaptureFixture[str], status: int, *words: str) -> str:
    """What `nutgraf check` prints with the pocket study's settings and these words."""
    assert main.main(["check", *words]) == status
    output = capsys.readouterr()
    assert "nutgraf: " not in output.err
    return output.out


def test_the_pocket_study_is_ready(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = printed(capsys, 0)
    assert text.splitlines()[-1] == "ready"
    assert "\x1b" not in text  # no terminal, no colours
    for said in (
        "Hub\n  not needed", "torch 2.", "max_examples 896", "% of all tokens: summaries of 5",
        "cut        no article", "measured on the base itself",
    ):  # fmt: skip
        assert said in text
    for stage in ("prepare", "search", "train", "generate", "score", "compare", "report"):
        assert re.search(rf"^  {stage} +(\d+ (h|min|s) ?)+", text, re.MULTILINE), stage
    assert re.search(r"^  together +[\d a-z]+ of [\d.]+ GB free \(cpu\)$", text, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_told_with_the_setting_to_change(capsys, monkeypatch, quick):
    ram = SimpleNamespace(available=6_000_000_000, total=8_000_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: ram)
    text = printed(capsys, 2, "--train.micro-batch-size", "256")
    *_, micro, accumulation = text.splitlines()
    change = re.fullmatch(
        r"change: train.micro_batch_size 256 → (\d+) \(search needs ([\d.]+) GB, 6.0 GB there\)",
        micro,
    )
    assert change
    assert float(change[2]) > 6
    assert accumulation.startswith(
        f"change: train.gradient_accumulation_steps 2 → {512 // int(change[1])} "
    )
    changed = ["--train.micro-batch-size", change[1], "--train.gradient-accumulation-steps"]
    assert "ready" in printed(capsys, 0, *changed, str(512 // int(change[1])))


def test_a_configuration_and_a_run_folder_are_read_as_for_run(capsys, tmp_path, quick):
    (tmp_path / "config.yaml").write_text("lora: {r: 128}\ngenerate: {num_beams: 4}\n")
    text = printed(capsys, 0, "--run", str(tmp_path), "--data.test-examples", "20")
    assert "r 128*" in text
    assert "lora.r 128: 2.3 million weights in an adapter, 37 MB with gradients" in text
    assert "generate.num_beams 4: writing takes about 4 times as long" in text
    assert "data.test_examples 20: the 95% interval of a mean ROUGE-1 is about ±5.4 points" in text


def test_a_storage_brings_its_configuration_and_nothing_is_written(capsys, tmp_path, quick):
    storage = tmp_path / "kept"
    storage.mkdir()
    (storage / "config.yaml").write_text("lora: {r: 128}\n")
    folder = tmp_path / "run"
    text = printed(capsys, 0, "--run", str(folder), "--storage", str(storage))
    assert "r 128*" in text
    assert [path.name for path in tmp_path.rglob("*")] == ["kept", "config.yaml"]


def test_a_damaged_configuration_is_told_with_the_storage_that_has_it(capsys, tmp_path):
    storage = tmp_path / "kept"
    storage.mkdir()
    (storage / "config.yaml").write_text("lora: [\n")
    words = ["check", "--run", str(tmp_path / "run"), "--storage", str(storage)]
    assert main.main(words) == 2
    assert f"nutgraf: {storage}/config.yaml cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "change"),
    [
        (["--model.device", "cuda"], "model.device is 'cuda' and there is no CUDA device"),
        (["--search.gpus-per-trial", "1"], "search.gpus_per_trial 1 → 0 (there is no GPU here)"),
        (["--prompt.max-tokens", "2000"], "prompt.max_tokens 2,000 → 1,952"),
        (["--lora.target-modules", "[c_attn]"], "the base has no such layer"),
        (["--data.source", "nowhere.csv"], "nowhere.csv does not exist"),
        (["--score.resamples", "200"], "score.resamples is 200: 12 comparisons need at least 480"),
        (["--train.warmup-steps", "500"], "train.warmup_steps is 500 and a training has 112"),
        (["--prompt.max-tokens", "80", "--prompt.max-article-tokens", "40"], "too long"),
        (["--prompt.max-tokens", "60", "--prompt.max-article-tokens", "40"], "none has room"),
    ],
)
def test_a_mistake_that_a_run_would_end_with_is_told_before(capsys, quick, words, change):
    lines = printed(capsys, 2, *words).splitlines()
    assert "ready" not in lines
    assert ("newswire; yours cannot be read" in " ".join(lines)) == (words[0] == "--data.source")
    changes = " ".join(" ".join(lines[[c[:7] for c in lines].index("change:") :]).split())
    assert change in changes


def test_a_tracker_that_is_not_installed_is_told_before(capsys, quick, monkeypatch):
    monkeypatch.setitem(tracking._TRACKERS, "wandb", ("no_such_library", tracking._wandb))
    text = printed(capsys, 2, "--tracking.to", "[wandb]")
    assert "change: tracking.to names wandb, which is not installed" in text


# The rendered example.


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    config = Config()
    return Renderer(load_tokenizer(config.model), config.prompt)


def test_pieces_are_the_tokens_that_are_trained_on(renderer):
    example = renderer.example("Zoë paid €5 🙂🙂 in Ōtāhuhu.", "She paid € 5.\nNaïve 🙂.")
    pieces = renderer.pieces(example)
    assert [piece.id for piece in pieces] == example.input_ids
    assert [piece.id if piece.trained_on else -100 for piece in pieces] == example.labels
    text = "".join(piece.text for piece in pieces)
    assert "Zoë paid €5 🙂🙂 in Ōtāhuhu." in text
    assert text.endswith("\n\nSummary: She paid € 5.\nNaïve 🙂.</s>")
    trained_text = "".join(piece.text for piece in pieces if piece.trained_on)
    assert trained_text == " She paid € 5.\nNaïve 🙂.</s>"


def test_what_is_trained_on_is_green_and_the_rest_red(capsys, monkeypatch, quick, renderer):
    monkeypatch.setenv("FORCE_COLOR", "1")
    text = printed(capsys, 0)
    coloured_lines = COLOUR.findall(text[text.index("One training row") : text.index("Plan")])
    green = [line.strip() for colour, line in coloured_lines if colour == "32"]
    red = [line.strip() for colour, line in coloured_lines if colour == "31"]
    story = load.newswire_sample(Config().data, "train", 1)[0]
    assert " ".join(green).replace("⏎", "") == " ".join(f"{story.reference}</s>".split("\n"))
    assert red[0].startswith("<s>Summarize: ")
    assert red[-1] == "Summary:"
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in printed(capsys, 0)


def test_where_an_article_is_cut_is_shown(capsys, quick):
    text = printed(capsys, 0, "--prompt.max-article-tokens", "200")
    (cut,) = re.findall(r"\(([\d,]+) tokens cut here\)\n +⏎\n", text)
    assert re.search(r"cut +\d+ of \d+ articles .* tokens on average", text)
    assert int(cut) > 0
    assert "⟦" in text


def test_what_could_drive_a_terminal_does_not_reach_it(capsys, tmp_path, quick):
    evil = "\x1b]0;owned\x07\x1b[2J\u202egnp.exe\u200b\x9b31m"
    row = {"id": evil, "article": f"It rained. {evil} " * 9, "highlights": f"Rain. {evil}"}
    file = tmp_path / "news.jsonl"
    file.write_text("".join(json.dumps({**row, "id": f"{evil}{n}"}) + "\n" for n in range(3)))
    splits = [f"--data.{split}={file}" for split in sources.SPLITS]
    rival = ["--rivals.a.model", json.dumps(evil)]  # JSON's escapes are YAML's too
    text = printed(capsys, 2, *splits, *rival)
    assert not {c for c in text if c != "\n" and not c.isprintable()}
    example = text[text.index("One training row") :]
    assert "gnp.exe" in example
    assert "\\u202egnp.exe" in example
    assert re.search(r"rivals\.a\.model '/.*\\x1b\]0;owned\\x07", text)


# The Hub.


def test_offline_says_so_and_what_to_do(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    text = printed(capsys, 2, "--model.base", BASE, "--data.source", "someone/news")
    assert f"model.base {BASE}: not in the cache, and offline (HF_HUB_OFFLINE is set)" in text
    assert f"change: model.base {BASE} → `pocket` or a folder with safetensors" in text
    assert "change: data.source someone/news → `newswire`, or files" in text
    assert "not known without the base's tokenizer" in text


def test_weights_of_the_hub_are_neither_loaded_nor_downloaded(
    capsys, monkeypatch, tmp_path, tiny_base
):
    snapshot = tmp_path / "models--someone--tiny" / "snapshots" / "abc"
    shutil.copytree(tiny_base, snapshot)
    (snapshot / "model.safetensors").write_text("no weights")  # whoever loads this fails
    refs = tmp_path / "models--someone--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    news = tmp_path / "news.jsonl"
    row = {"article": "The council met. " * 6, "highlights": "It met."}
    news.write_text("".join(json.dumps({**row, "id": i}) + "\n" for i in range(8)))
    splits = [f"--data.{split}={news}" for split in sources.SPLITS]
    limits = ["--prompt.max-tokens", "300", "--prompt.max-article-tokens", "200"]
    allow = ["--data.allow-overlap", "true"]
    text = printed(capsys, 0, "--model.base", BASE, *splits, *limits, *allow)
    assert re.search(r"read +validation 8 rows: 8 taken\n", text)
    assert re.search(r"warning +OVERLAP: 1 of the 8 test articles", text)
    assert f"model.base {BASE}: in the cache" in text
    assert "measured on 2 layers of its shape" in text


@pytest.fixture
def host() -> Iterator[str]:
    """A host that refuses whoever asks, on this machine."""

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(403)

        def log_message(self, *args: object) -> None:
            """Nothing: the test's output is for its own."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_hub_is_reached_where_it_answers_at_all(monkeypatch, host):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", host)
    assert hub.connection_error() is None


def test_a_host_that_is_not_there_or_does_not_answer_is_trouble(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "timed out" in str(hub.connection_error())
    assert "refused" in str(hub.connection_error())


def test_the_example_prefers_an_article_that_is_cut(renderer):
    short, long = (rows.Article(str(n), "It rained. " * n, "Rain.") for n in (3, 400))
    examples = [renderer.example(row.article, row.reference) for row in (short, long)]
    title, _ = check_example.show(renderer, examples)
    assert "One training row of 7" in title
