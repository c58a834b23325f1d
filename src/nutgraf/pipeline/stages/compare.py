"""Compare: the table, the rows behind it, and the folder that a user takes away."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nutgraf.config import Config
from nutgraf.config.systems import (
    MODELS,
    TRAINED,
    base_system,
    competing,
    seed_repeats,
    system_names,
)
from nutgraf.core import units
from nutgraf.core.files import (
    read_json,
    read_records,
    write_json,
    write_records,
    write_text,
    written_by_others,
)
from nutgraf.data import article_store
from nutgraf.data.rows import Article
from nutgraf.evaluation import bootstrap, error_rates, examples, published, rouge, significance
from nutgraf.evaluation import indicators as errors
from nutgraf.pipeline import artifacts
from nutgraf.pipeline.artifacts import TABLE
from nutgraf.report import model_card
from nutgraf.storage.run_folder import RunFolder

Rows = dict[str, list[dict[str, Any]]]

COLUMNS = [
    "system", "source", "n", "rouge1", "rouge2", "rougeL", "rougeLsum", "rougeLsum_low",
    "rougeLsum_high", "loss", "perplexity", "learning_rate", "gradient_accumulation_steps",
    "weight_decay", "lora_r", "train_examples", "train_seconds",
]  # fmt: skip
# The table is read by other programs and keeps its columns; the other intervals lie beside it.
INTERVALS = [f"{kind}_{end}" for kind in ("rouge1", "rouge2", "rougeL") for end in ("low", "high")]


def run(config: Config, folder: RunFolder, force: bool = False) -> bool:
    """Make model_comparison_results.csv with analysis/, and final_best_model/."""
    table, final = artifacts.compare(config, folder)
    anything = False
    if force or not table.is_current:
        with table.writing() as scratch:
            rows = _table(config, folder)
            rows[COLUMNS].to_csv(scratch / TABLE, index=False)
            _analysis(config, folder, scratch / "analysis")
            intervals = rows.loc[rows["source"] == "measured", ["system", *INTERVALS]]
            intervals.to_csv(scratch / "analysis" / "intervals.csv", index=False)
            _by_seed(config, folder).to_csv(scratch / "analysis" / "seeds.csv", index=False)
        anything = True
    if force or not final.is_current:
        with final.writing() as scratch:
            _final_model(config, folder, scratch / "final_best_model")
        anything = True
    return anything


def _table(config: Config, folder: RunFolder) -> pd.DataFrame:
    rows = [_measured(system, config, folder) for system in system_names(config.rivals)]
    rows += [
        {
            "system": cited.system,
            "source": "published",
            "n": cited.n,
            "rouge1": cited.rouge1,
            "rouge2": cited.rouge2,
            "rougeLsum": cited.rougeLsum,
        }
        for cited in published.in_table()
    ]
    return pd.DataFrame(rows)


def _by_seed(config: Config, folder: RunFolder) -> pd.DataFrame:
    """The trained models, a row a model and seed, the first seed's rows as in the table."""
    first = {name: (name, config.train.seed) for name in TRAINED}
    rows = [
        {**_measured(name, config, folder), "system": model, "seed": seed}
        for name, (model, seed) in {**first, **seed_repeats(config.train.seeds)}.items()
    ]
    return pd.DataFrame(rows, columns=["seed", *COLUMNS])


def _measured(system: str, config: Config, folder: RunFolder) -> dict[str, Any]:
    scores = read_records(folder.scores(system))
    row: dict[str, Any] = {"system": system, "source": "measured", "n": len(scores)}
    for kind in rouge.ROUGE_TYPES:
        values = [s[kind] for s in scores]
        interval = bootstrap.bootstrap(values, config.score.resamples, config.score.seed)
        row[kind] = round(interval.mean, 2)
        row[f"{kind}_low"], row[f"{kind}_high"] = round(interval.low, 2), round(interval.high, 2)
    if base_system(system) in MODELS:
        summaries = read_records(folder.summaries(system))
        nll = sum(s["reference_nll"] for s in summaries)
        tokens = sum(s["reference_tokens"] for s in summaries)
        row["loss"] = round(nll / tokens, 4)
        row["perplexity"] = round(units.perplexity(nll, tokens), 3)
    if base_system(system) in TRAINED:
        record = read_json(folder.model(system) / "train.json")
        for name in ("learning_rate", "gradient_accumulation_steps", "weight_decay", "lora_r"):
            row[name] = record[name]
        row["train_examples"], row["train_seconds"] = record["examples"], record["seconds"]
    return row


def _analysis(config: Config, folder: RunFolder, out: Path) -> None:
    """errors.csv for the systems and the references themselves, rates.csv of it, what to read
    (examples.jsonl, error_examples.jsonl), and differences.csv: best against every other system."""
    test = article_store.read_split(folder.data("test"))
    scores = {system: read_records(folder.scores(system)) for system in system_names(config.rivals)}
    summaries = {
        system: read_records(folder.summaries(system)) for system in system_names(config.rivals)
    }
    found = _errors(test, scores, summaries)
    out.mkdir(parents=True)
    found.to_csv(out / "errors.csv", index=False)
    error_rates.by_group(found).to_csv(out / "rates.csv", index=False)
    rivals = {system: scores[system] for system in competing(scores)}
    against = significance.difference_table(
        rivals, "best", config.score.resamples, config.score.seed
    )
    pd.DataFrame(against).to_csv(out / "differences.csv", index=False)
    write_records(
        out / "examples.jsonl",
        examples.examples_by_score(test, summaries, scores["best"], "best"),
    )
    write_records(
        out / "error_examples.jsonl",
        examples.examples_by_fault(test, summaries["best"], scores["best"], "best"),
    )


def _errors(test: Sequence[Article], scores: Rows, summaries: Rows) -> pd.DataFrame:
    """A row a system and article: id, system, words of the article, tokens cut off it before the
    system read it, indicators. The references are a system too, which read all of it."""
    references = errors.indicators_many(
        [(a.article, a.reference, a.reference, None) for a in test],
        progress="references, indicators",
    )
    rows = [
        {"id": a.id, "system": "reference", **_read(a, 0), **indicators}
        for a, indicators in zip(test, references, strict=True)
    ]
    for system in scores:
        for a, score, row in zip(test, scores[system], summaries[system], strict=True):
            indicators = {name: score[name] for name in errors.MEANINGS}
            read = _read(a, row["trimmed_tokens"])
            rows.append({"id": a.id, "system": system, **read, **indicators})
    return pd.DataFrame(rows)


def _read(article: Article, trimmed_tokens: int | None) -> dict[str, int | None]:
    return {"article_words": len(article.article.split()), "trimmed_tokens": trimmed_tokens}


def _final_model(config: Config, folder: RunFolder, out: Path) -> None:
    from nutgraf.generation.decoding import generation_config
    from nutgraf.modeling.load import load_tokenizer

    out.mkdir(parents=True)
    best = folder.model("best")
    shutil.copy2(best / "adapter_model.safetensors", out)
    adapter = read_json(best / "adapter_config.json")
    # The base's name, where peft writes the path that it was loaded from on this machine.
    adapter |= {"base_model_name_or_path": config.model.base, "revision": config.model.revision}
    write_json(out / "adapter_config.json", adapter)
    tokenizer = load_tokenizer(config.model)
    with written_by_others(out):
        tokenizer.save_pretrained(str(out))
        generation_config(tokenizer, config.generate).save_pretrained(str(out))
    record = read_json(best / "train.json")
    rates = pd.read_csv(folder / "analysis" / "rates.csv")
    of_best = (rates["group"] == error_rates.ALL) & (rates["system"] == "best")
    intervals = pd.read_csv(folder / "analysis" / "intervals.csv")
    about = {
        "base": record["base"],
        "model": config.model.model_dump(mode="json"),
        "prompt": config.prompt.model_dump(mode="json"),
        "generate": config.generate.model_dump(mode="json"),
        "train": record,
        "study": model_card.study(
            config,
            _rows(pd.read_csv(folder / TABLE)),
            _rows(intervals[intervals["system"] == "best"])[0],
            _rows(rates[of_best]),
            read_json(folder / "data" / "card.json")["splits"],
        ),
    }
    write_json(out / "nutgraf.json", about)
    write_text(out / "README.md", model_card.model_card(about, "adapter"))


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]
