"""Before anything heavy: does it fit, does the configuration make sense, what is trained on."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from nutgraf.config import Config
from nutgraf.core import hub
from nutgraf.core.console import Painted, coloured, section, show
from nutgraf.core.environment import free_disk_bytes, library_versions, memory_info
from nutgraf.core.errors import UserError
from nutgraf.core.fast_import import fast_imports
from nutgraf.core.units import duration
from nutgraf.core.units import memory as size
from nutgraf.data import load
from nutgraf.data.load import SPLITS
from nutgraf.data.prompts import Encoded, Example, Piece, PromptError, Renderer
from nutgraf.data.rows import Article
from nutgraf.planning import advice, memory
from nutgraf.planning.duration import Plan
from nutgraf.planning.memory import RowLengths
from nutgraf.training import tracking

LOOKED = {"train": 100, "validation": 4, "test": 50}  # articles read, at most
SHOWN = 60  # tokens of the example's prompt from its beginning, and half as many from its end
UNKNOWN = 1_000  # articles reckoned with where all of a split on the Hub are taken


def run(config: Config) -> int:
    """Print what the study would meet; 0 where it can run, 2 where a setting has to change.

    Nothing is written. No weights are downloaded, and none are loaded but a small local base's.
    """
    changes: list[str] = []
    section("Machine", _machine(config))
    section("Hub", _hub(config, changes))
    section("Configuration (* differs from the default)", _configuration(config))
    try:
        tracking.named(config.tracking.to)
    except UserError as error:
        changes.append(str(error))
    read = _read(config, changes)
    if any(change.startswith("model.base") for change in changes):
        section("Rows and plan", ["not known without the base's tokenizer and configuration"])
        section("Unusual", advice.settings_advice(config))
    else:
        try:
            _with_the_base(config, read, changes)
        except UserError as error:
            changes.append(str(error))
    for change in dict.fromkeys(changes):
        show(Painted(f"change: {change}", "red"))
    if not changes:
        show(Painted("ready", "green"))
    return 2 if changes else 0


def _machine(config: Config) -> Iterator[str]:
    there = memory_info()
    yield f"memory    {size(there.free)} free of {size(there.total)}"
    yield f"disk      {size(free_disk_bytes(Path(config.run)))} free at {config.run}"
    yield "versions  " + ", ".join(
        f"{name} {version}" for name, version in library_versions().items()
    )


def _hub(config: Config, changes: list[str]) -> Iterator[str]:
    """What comes from the Hub: whether it is in the cache, or else whether the Hub answers."""
    needs = list(_needs(config))
    missing = [setting for setting, name, kind, _ in needs if not hub.in_cache(name, kind)]
    trouble = hub.trouble() if missing else None
    if not needs:
        yield "not needed"
    for setting, name, _, instead in needs:
        if setting not in missing:
            yield f"{setting} {name}: in the cache"
        elif trouble is None:
            yield f"{setting} {name}: to be downloaded, the Hub answers"
        else:
            yield f"{setting} {name}: not in the cache, and offline ({trouble})"
            changes.append(
                f"{setting} {name} → {instead} (the Hub cannot be reached: {trouble}), or connect "
                "this machine"
            )


def _needs(config: Config) -> Iterator[tuple[str, str, str, str]]:
    """(setting, repository on the Hub, its kind, what to give in its place)."""
    if config.model.base != "pocket" and not Path(config.model.base).is_dir():
        folder = "`pocket` or a folder with safetensors and a tokenizer"
        yield "model.base", config.model.base, "model", folder
    if load.on_the_hub(config.data):
        files = "`newswire`, or files in data.train, data.validation and data.test"
        yield "data.source", config.data.source, "dataset", files
    for name, rival in config.rivals.items():
        if rival.model and not Path(rival.model).is_dir():
            yield f"rivals.{name}.model", rival.model, "model", "a folder, or a file of summaries"


def _configuration(config: Config) -> Iterator[str]:
    defaults = Config().model_dump(mode="json")
    for name, given in config.model_dump(mode="json").items():
        usual = defaults[name]
        if name == "rivals" or not isinstance(given, dict):
            yield f"{name:<9} {_value(given, usual)}"
        else:
            pairs = [f"{key} {_value(value, usual[key])}" for key, value in given.items()]
            yield f"{name:<9} {', '.join(pairs)}"


def _value(value: object, usual: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.splitlines()[0] + "*" * (value != usual)


@dataclass(frozen=True)
class _Read:
    """Articles to look at by split, how many a study takes, seconds that one took; `real` where
    they are the study's own."""

    samples: dict[str, list[Article]]
    numbers: dict[str, int]
    seconds: float
    real: bool


def _read(config: Config, changes: list[str]) -> _Read:
    started = time.perf_counter()
    data, real = config.data, not load.on_the_hub(config.data)
    try:
        found = {split: load.sample(data, split, LOOKED[split]) for split in SPLITS}
    except UserError as error:
        changes.append(str(error))
        found, real = dict.fromkeys(SPLITS, ([], None)), False
    numbers = {split: UNKNOWN if n is None else n for split, (_, n) in found.items()}
    samples = {split: rows for split, (rows, _) in found.items()}
    if not real:
        samples = {s: load.sample(Config().data, s, LOOKED[s])[0] for s in SPLITS}
    seconds = time.perf_counter() - started
    return _Read(samples, numbers, seconds / sum(map(len, samples.values())), real)


@dataclass(frozen=True)
class _Rows:
    """The articles as training rows; `refused` are the reasons of those that find no room."""

    renderer: Renderer
    examples: list[Example]
    prompts: list[list[int]]
    refused: list[str]
    seconds: float
    """Of one article."""


def _rendered(renderer: Renderer, sample: Sequence[Article]) -> _Rows:
    started = time.perf_counter()
    encoded: list[Encoded] = []
    refused: list[str] = []
    for article in sample:
        try:
            encoded.append(renderer.encode(article.article, article.reference))
        except PromptError as error:
            refused.append(str(error))
    if not encoded:
        raise UserError(
            f"of {len(sample)} summaries looked at none has room: the first {refused[0]}"
        )
    examples = [ids.example for ids in encoded]
    prompts = [ids.prompt.ids for ids in encoded]
    seconds = (time.perf_counter() - started) / len(sample)
    return _Rows(renderer, examples, prompts, refused, seconds)


def _with_the_base(config: Config, read: _Read, changes: list[str]) -> None:
    """What takes the base's tokenizer and shape. Raises UserError where these and the configuration
    do not go together."""
    # Libraries that take seconds to load: what needs none of them is on the screen by now.
    with fast_imports():
        from nutgraf.modeling.load import load_tokenizer
        from nutgraf.planning import benchmark

    renderer = Renderer(load_tokenizer(config.model), config.prompt)
    rows = _rendered(renderer, [a for split in read.samples.values() for a in split])
    section("Rows", _rows(config, rows, read, changes))
    section(*_example(rows))
    preparing = read.seconds + rows.seconds
    lengths = None if read.real else _limits(config)
    planned = benchmark.forecast(
        config, rows.examples, rows.prompts, read.numbers, lengths, preparing
    )
    section("Plan", _plan(config, planned))
    section("Unusual", [*advice.settings_advice(config), *advice.cost_advice(config, planned)])
    changes += _too_much(config, planned, sum(read.numbers.values()))


def _limits(config: Config) -> RowLengths:
    """Rows as long as they can be, for data that is not read before its download."""
    row, summary = config.prompt.max_tokens, config.generate.max_new_tokens
    prompt = min(config.prompt.max_article_tokens, row - 1)
    return RowLengths(row, row, prompt, prompt, summary, summary)


def _rows(config: Config, rows: _Rows, read: _Read, changes: list[str]) -> Iterator[str]:
    taken = ", ".join(f"{split} {number:,}" for split, number in read.numbers.items())
    yield f"taken      {taken}"
    if not read.real:
        yield (
            "looked at  articles of the newswire; those of the Hub are not read before the study, "
            f"but planned as long as the limits allow; {UNKNOWN:,} where all of a split are taken"
        )
    found = memory.row_lengths([(len(e.ids), e.prompt_tokens) for e in rows.examples])
    told, every = found.summary * len(rows.examples), found.row * len(rows.examples)
    yield (
        f"tokens     {found.row:,.0f} a row, {found.longest_row:,} in the longest of "
        f"{len(rows.examples)}; limit {config.prompt.max_tokens:,}"
    )
    yield f"trained on {told / every:.1%} of all tokens: summaries of {found.summary:.0f} tokens"
    cut = [e.trimmed_tokens for e in rows.examples if e.trimmed_tokens]
    if cut:
        yield (
            f"cut        {len(cut)} of {len(rows.examples)} articles (prompt.max_article_tokens), "
            f"by {sum(cut) / len(cut):,.0f} tokens on average, {max(cut):,} at most"
        )
    else:
        yield "cut        no article"
    if rows.refused:
        all_of_them = len(rows.refused) + len(rows.examples)
        why = f"{len(rows.refused)} of {all_of_them} summaries too long: {rows.refused[0]}"
        yield f"no room    {why}"
        if len(rows.refused) > config.data.max_rejected * all_of_them:
            changes.append(why)


def _example(rows: _Rows) -> tuple[str, list[Painted]]:
    """Title and lines of a training row, the first that is cut or else the first of all: green is
    trained on and red is not, or without colours what is trained on stands in ⟦⟧."""
    cut = [i for i, example in enumerate(rows.examples) if example.trimmed_tokens]
    example = rows.examples[(cut or [0])[0]]
    pieces = rows.renderer.pieces(example)
    end = example.prompt_tokens - rows.renderer.tail_tokens  # of the article
    stopped = min(SHOWN, end)
    resumed = max(stopped, end - SHOWN // 2)
    parts = [
        *_runs(pieces[:stopped]),
        *_note(resumed - stopped, "not shown here"),
        *_runs(pieces[resumed:end]),
        *_note(example.trimmed_tokens, "cut here"),
        *_runs(pieces[end:]),
    ]
    told = len(pieces) - example.prompt_tokens
    how = "green, the rest red" if coloured() else "in ⟦⟧, the rest not"
    return f"One training row of {len(pieces)} tokens, {told} trained on ({how})", parts


def _note(tokens: int, what: str) -> Iterator[Painted]:
    if tokens:
        yield Painted(f"({tokens:,} tokens {what})", "bold")


def _runs(pieces: Sequence[Piece]) -> Iterator[Painted]:
    """The text, what is trained on apart from what is not; ⏎ is a line end of its own."""
    for trained_on, run in itertools.groupby(pieces, key=lambda piece: piece.trained_on):
        text = "".join(piece.text for piece in run).replace("\n", "⏎\n")
        if trained_on and not coloured():
            text = f"⟦{text}⟧"
        for line in text.splitlines():
            yield Painted(line, "green" if trained_on else "red")


def _plan(config: Config, planned: Plan) -> Iterator[str]:
    for stage in planned.stages:
        held = size(round(stage.memory)) if stage.memory else ""
        told = f"{stage.name:<9} {duration(stage.starting + stage.seconds):>12} {held:>9}"
        if stage.by_luck and stage.by_luck[0] < stage.by_luck[1]:
            told += "   {} to {}, by luck with stopped trials".format(*map(duration, stage.by_luck))
        yield told.rstrip()
    whole = sum(stage.starting + stage.seconds for stage in planned.stages)
    machine = planned.machine
    yield f"together  {duration(whole):>12}   of {size(machine.free)} free ({machine.device})"
    measured = f"{planned.speeds.measured_on}, in {duration(planned.measuring)}"
    yield f"measured on {measured}; downloads are not in it"
    for name, rival in config.rivals.items():
        if rival.model:
            yield f"rivals.{name} writes at a speed that is not known: not in it"


def _too_much(config: Config, planned: Plan, number: int) -> Iterator[str]:
    """What has to change for the study to fit on the device and on the disk."""
    form, machine = planned.shape, planned.machine
    if machine.device == "cpu" and config.search.gpus_per_trial:
        yield f"search.gpus_per_trial {config.search.gpus_per_trial:g} → 0 (there is no GPU here)"
    longest = config.prompt.max_tokens + config.generate.max_new_tokens
    if longest > form.positions:
        yield (
            f"prompt.max_tokens {config.prompt.max_tokens:,} → "
            f"{form.positions - config.generate.max_new_tokens:,} (with generate.max_new_tokens "
            f"{longest:,} tokens, and the base was made for {form.positions:,})"
        )
    held = memory.bytes_by_stage(config, form, planned.rows, machine)
    stage, needed = max(held.items(), key=lambda item: item[1])
    why = f"{stage} needs {size(round(needed))}, {size(machine.free)} there"
    changed = memory.suggest_changes(config, form, planned.rows, machine)
    if changed is None:
        yield f"model.base {config.model.base} → a smaller one ({why}; no batch is small enough)"
    for setting, (now, then) in (changed or {}).items():
        yield f"{setting} {now} → {then} ({why})"
    disk, free = memory.disk_bytes(config, form, number), free_disk_bytes(Path(config.run))
    if disk > free:
        why = f"needs {size(round(disk))}, {size(free)} there"
        yield f"run {config.run} → a folder on another disk ({why})"
