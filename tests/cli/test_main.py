"""The command line: what it accepts, and mistakes told in one line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import nutgraf.cli
from nutgraf.cli import check_facts, main
from nutgraf.config import Config
from nutgraf.config.load import load_config, setting_fields
from nutgraf.core.errors import Failure
from nutgraf.core.signals import Stopped
from nutgraf.data.new_articles import Columns
from nutgraf.pipeline import runner

COMMANDS = ("run", *runner.STAGES, "check", "summarize", "serve", "export", "watch", "judge")


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """What would have been run, instead of running it."""
    calls: list[SimpleNamespace] = []

    def record(config: Config, stages: tuple[str, ...], force: bool = False) -> bool:
        calls.append(SimpleNamespace(config=config, stages=tuple(stages), force=force))
        return False

    monkeypatch.setattr(runner, "run_study", record)
    return calls


def complaint(capsys: pytest.CaptureFixture[str], status: int, *argv: str) -> str:
    """The one line that a command which must fail with `status` leaves on standard error."""
    assert main.main(argv) == status
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("nutgraf: ")
    assert output.err.count("\n") == 1
    return output.err


# Settings.


@pytest.mark.parametrize(
    "words",
    [
        ("--train.learning-rate=2e-4",),
        ("--train.learning-rate", "2e-4"),
        ("--train.learning_rate", "2e-4"),
    ],
)
def test_a_setting_is_given_with_or_without_an_equals_sign(studies, words):
    assert main.main(["train", *words]) == 0
    assert studies[0].config.train.learning_rate == 2e-4


def test_a_setting_may_stand_before_or_behind_the_configuration(studies, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("lora: {r: 4}\n")
    main.main(["train", str(path), "--lora.alpha", "8"])
    main.main(["train", "--lora.alpha", "8", str(path)])
    assert [(s.config.lora.r, s.config.lora.alpha) for s in studies] == [(4, 8), (4, 8)]


def test_the_last_of_two_values_counts(studies):
    main.main(["train", "--lora.r=4", "--lora.r=8"])
    assert studies[0].config.lora.r == 8


def test_a_negative_number_is_a_value(capsys, studies):
    line = complaint(capsys, 2, "train", "--lora.r", "-1")
    assert "lora.r is -1: input should be greater than or equal to 1" in line


def test_a_stage_runs_alone_and_force_is_passed_on(studies):
    main.main(["score", "--force"])
    main.main(["score"])
    assert [(s.stages, s.force) for s in studies] == [(("score",), True), (("score",), False)]


# The run folder.


def test_a_run_folder_brings_its_own_configuration(studies, tmp_path):
    (tmp_path / "config.yaml").write_text("run: runs/elsewhere\ntrain: {seeds: [7]}\n")
    main.main(["train", "--run", str(tmp_path)])
    config = studies[0].config
    assert (config.train.seed, config.run) == (7, str(tmp_path))


def test_a_configuration_counts_more_than_that_of_the_run_folder(studies, tmp_path):
    (tmp_path / "config.yaml").write_text("train: {seeds: [7]}\n")
    config_file = tmp_path / "given.yaml"
    config_file.write_text("train: {seeds: [8]}\n")
    main.main(["train", str(config_file), "--run", str(tmp_path)])
    config = studies[0].config
    assert (config.train.seed, config.run) == (8, str(tmp_path))


def test_a_new_run_folder_starts_as_the_pocket_study(studies, tmp_path):
    main.main(["train", f"--run={tmp_path / 'new.run'}"])
    assert studies[0].config == load_config(None, {"run": str(tmp_path / "new.run")})


# Mistakes.


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--train.learning-rat=1"], "did you mean 'train.learning_rate'?"),
        (["--trian.seeds", "[1]"], "did you mean 'train.seeds'?"),
        (["--train.learning-rate"], "--train.learning-rate has no value"),
        (["--train.learning-rate="], "train.learning_rate is null"),
        (["--train.learning-rate", "fast"], "train.learning_rate is 'fast'"),
        (["--train.schedule", "cosin"], "'linear', 'cosine' or 'constant'"),
        (["--train.max-steps", "25"], "max_examples is 896 and max_steps 25"),
        (["--search.space", "{train.speed: {choices: [1]}}"], "'train.speed' cannot be searched"),
        (["--data.train", "{a: ["], "data.train: '{a: [' cannot be read as a value"),
        (["nowhere.yaml"], "nowhere.yaml does not exist"),
    ],
)
def test_a_mistake_in_a_setting_is_told_in_one_line(capsys, studies, words, expected):
    assert expected in complaint(capsys, 2, "run", *words)
    assert not studies


def test_several_mistakes_are_told_at_once(capsys, studies):
    line = complaint(capsys, 2, "run", "--lora.r", "0", "--lora.dropout", "1")
    assert "lora.r is 0" in line
    assert "lora.dropout is 1" in line


def test_a_folder_as_configuration_is_told_in_one_line(capsys, tmp_path):
    assert str(tmp_path) in complaint(capsys, 2, "run", str(tmp_path))


def test_the_kinds_of_trouble_have_their_own_status(capsys, monkeypatch):
    def trouble(error: BaseException) -> None:
        def run(*args: object, **kwargs: object) -> bool:
            raise error

        monkeypatch.setattr(runner, "run_study", run)

    trouble(Failure("every trial failed:\n  out of memory"))
    assert complaint(capsys, 1, "run") == "nutgraf: every trial failed: out of memory\n"
    trouble(OSError(28, "No space left on device", "runs/pocket/data"))
    assert complaint(capsys, 1, "run") == (
        "nutgraf: No space left on device: runs/pocket/data: free space there; "
        "the same command carries on from here\n"
    )
    trouble(OSError(13, "Permission denied", "runs/pocket/data"))
    assert complaint(capsys, 1, "run") == "nutgraf: Permission denied: runs/pocket/data\n"
    trouble(KeyboardInterrupt())
    assert "carries on from here" in complaint(capsys, 130, "run")
    trouble(Stopped(signal.SIGTERM))
    stopped = "nutgraf: stopped by SIGTERM; the same command carries on from here\n"
    assert complaint(capsys, 143, "run") == stopped
    stop = Stopped(signal.SIGTERM)
    stop.__cause__ = RuntimeError("No module named 'version'")
    trouble(stop)
    assert complaint(capsys, 143, "run") == (
        "nutgraf: stopped by SIGTERM (RuntimeError: No module named 'version'); "
        "the same command carries on from here\n"
    )


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("summarize", "summarize --model m"),
        ("export", "export --model m --to out --format merged"),
        ("check", "check"),
        ("score_file", "score a.jsonl --reference r --summary s"),
        ("score_file", "score a.txt b.txt"),
    ],
)
def test_what_is_no_study_does_not_promise_to_carry_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, module: str, words: str
) -> None:
    full = OSError(28, "No space left on device", "out")
    for error, status, line in (
        (KeyboardInterrupt(), 130, "stopped by SIGINT"),
        (full, 1, "No space left on device: out: free space there"),
    ):
        app = SimpleNamespace(run=_raising(error))
        monkeypatch.setattr(nutgraf.cli, module, app, raising=False)
        assert complaint(capsys, status, *words.split()) == f"nutgraf: {line}\n"


def test_check_facts_does_not_promise_to_carry_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_facts, "_run", _raising(KeyboardInterrupt()))
    assert complaint(capsys, 130, "check-facts", "a.jsonl") == "nutgraf: stopped by SIGINT\n"


@pytest.mark.parametrize("stage", runner.STAGES)
def test_each_stage_promises_to_carry_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr(runner, "run_study", _raising(KeyboardInterrupt()))
    assert complaint(capsys, 130, stage).endswith("; the same command carries on from here\n")


def _raising(error: BaseException) -> Callable[..., None]:
    def run(*_: object, **__: object) -> None:
        raise error

    return run


@pytest.mark.parametrize("words", [[], ["frobnicate"], ["run", "--frob"], ["summarize", "a.txt"]])
def test_what_is_no_command_is_refused_in_one_line(capsys, words):
    assert main.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nutgraf: ")
    assert "--help`" in line


def test_a_stage_without_what_comes_before_it_says_what_to_run(tmp_path, capsys):
    folder = tmp_path / "new"
    assert main.main(["compare", "--run", str(folder)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"nutgraf: {folder}")
    assert f"`nutgraf run --run {folder}`" in last


# summarize.


def test_summarize_takes_no_settings(capsys, tmp_path):
    line = complaint(
        capsys, 2, "summarize", "--model", str(tmp_path), "--generate.num-beams", "2", "a.txt"
    )
    assert "--generate.num" in line
    assert "setting of a study" in line


def test_summarize_needs_a_model(capsys, tmp_path):
    assert f"{tmp_path} holds no model" in complaint(
        capsys, 2, "summarize", "--model", str(tmp_path), "a.txt"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty: there is nothing to summarize"),
        (b" \n\t", "is empty: there is nothing to summarize"),
        (b"\xef\xbb\xbf", "is empty: there is nothing to summarize"),
        ("Café".encode("latin-1"), "is not UTF-8: unexpected end of data at byte 3"),
        (None, "is not a file: give files, folders, or - for standard input"),
    ],
)
def test_summarize_tells_what_is_wrong_with_a_file(capsys, model, tmp_path, content, expected):
    article = tmp_path / "article.txt"
    if content is not None:
        article.write_bytes(content)
    line = complaint(capsys, 2, "summarize", "--model", str(model), str(article))
    assert f"{article} {expected}" in line


def test_summarize_refuses_another_base(capsys, model, tmp_path):
    recipe = json.loads((model / "nutgraf.json").read_text())
    recipe["base"]["shape"] = "0123456789abcdef"
    (tmp_path / "nutgraf.json").write_text(json.dumps(recipe))
    line = complaint(capsys, 2, "summarize", "--model", str(tmp_path), "a.txt")
    assert "an adapter works on its own base only" in line


def test_summarize_refuses_the_base_after_its_weights_have_changed(capsys, model, tmp_path):
    """Of the same name, revision and shape, such as the head of a repository that has moved."""
    recipe = json.loads((model / "nutgraf.json").read_text())
    recipe["base"]["weights"] = "0123456789abcdef"
    (tmp_path / "nutgraf.json").write_text(json.dumps(recipe))
    line = complaint(capsys, 2, "summarize", "--model", str(tmp_path), "a.txt")
    assert "an adapter works on its own base only" in line
    assert "0123456789abcdef" in line
    recipe["base"]["revision"] = "0" * 40
    (tmp_path / "nutgraf.json").write_text(json.dumps(recipe))
    assert "own base only" in complaint(capsys, 2, "summarize", "--model", str(tmp_path), "a.txt")


def test_summarize_takes_a_model_of_before_weights_were_looked_at(capsys, model, tmp_path):
    recipe = json.loads((model / "nutgraf.json").read_text())
    del recipe["base"]["weights"]
    (tmp_path / "nutgraf.json").write_text(json.dumps(recipe))
    line = complaint(capsys, 2, "summarize", "--model", str(tmp_path), str(tmp_path / "none.txt"))
    assert "none.txt is not a file" in line


def test_summarize_takes_its_words(monkeypatch):
    calls: list[tuple] = []
    app = SimpleNamespace(run=lambda *arguments, **words: calls.append((arguments, words)))
    monkeypatch.setattr(nutgraf.cli, "summarize", app, raising=False)
    main.main(["summarize", "--model", "m"])
    plain = {"as_json": False, "columns": Columns("article", None), "sentences": None}
    plain |= {"long": "lead", "fetch": False, "engine": "auto", "check_facts": False}
    assert calls.pop() == (("m", ["-"]), plain)
    main.main(
        "summarize --model me/m --json a.txt b.csv --article text --id key --sentences 2 "
        "--long map-reduce --fetch --engine llama.cpp --check-facts".split()
    )
    asked = {"as_json": True, "columns": Columns("text", "key"), "sentences": 2}
    asked |= {"long": "map-reduce", "fetch": True, "engine": "llama.cpp", "check_facts": True}
    assert calls == [(("me/m", ["a.txt", "b.csv"]), asked)]


def test_summarize_takes_a_number_of_sentences_above_0(capsys):
    line = complaint(capsys, 2, "summarize", "--model", "m", "--sentences", "0", "a.txt")
    assert "'0' is no whole number above 0" in line


def test_export_takes_its_words(monkeypatch):
    calls: list[tuple] = []
    app = SimpleNamespace(run=lambda *arguments, **words: calls.append((arguments, words)))
    monkeypatch.setattr(nutgraf.cli, "export", app, raising=False)
    main.main(["export", "--model", "m", "--to", "out", "--format", "merged"])
    plain = {"push_to_hub": None, "llama_cpp": None, "tolerance": 0.05, "quantize": "",
             "author": None}  # fmt: skip
    assert calls.pop() == (("m", Path("out"), "merged"), plain)
    words = "--format gguf --tolerance 0.1 --llama-cpp l --push-to-hub me/m --quantize Q4_0".split()
    main.main(["export", "--model", "m", "--to", "out", *words])
    asked = {**plain, "push_to_hub": "me/m", "llama_cpp": Path("l"), "tolerance": 0.1,
             "quantize": "q4_0"}  # fmt: skip
    assert calls == [(("m", Path("out"), "gguf"), asked)]


@pytest.mark.parametrize("number", ["nan", "inf", "-1", "-inf", "much", ""])
def test_a_tolerance_that_no_loss_could_exceed_or_keep_is_refused(
    capsys: pytest.CaptureFixture[str], number: str
) -> None:
    words = ["export", "--model", "m", "--to", "out", "--format", "merged"]
    assert main.main([*words, f"--tolerance={number}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"argument --tolerance: {number!r} is no number from 0 on" in line


# Help.


def help_of(*words: str) -> str:
    """The help that a command prints, in a process that may load no heavy library for it."""
    code = (
        "import sys\nfrom nutgraf.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'transformers', 'ray', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_names_every_command_and_loads_nothing_heavy():
    text = " ".join(help_of("--help").split())
    for command in COMMANDS:
        assert f" {command} " in text
    for stage, what in runner.STAGES.items():
        assert f" {stage} one stage of it: {what}" in text


def test_help_of_a_study_explains_every_setting_and_loads_nothing_heavy():
    text = help_of("run", "--help")
    for name, sentence, _ in setting_fields():
        if name not in ("run", "storage"):
            assert f"\n  --{name.replace('_', '-')}  [" in text
            assert sentence in text
    assert "[--run DIR] [--storage URI]" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        main.main([command, "--help"])
    assert stopped.value.code == 0
    output = capsys.readouterr()
    assert output.out.startswith(f"usage: nutgraf {command} ")
    assert output.err == ""


def test_the_version_is_the_package_s(capsys):
    with pytest.raises(SystemExit):
        main.main(["--version"])
    assert capsys.readouterr().out == f"nutgraf {nutgraf.__version__}\n"
