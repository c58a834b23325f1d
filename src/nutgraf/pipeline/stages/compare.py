"""Compare: the table, the rows behind it, and the folder that a user takes away."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from nutgraf.config import Config, systems
from nutgraf.core import files, units
from nutgraf.core.files import read_json, read_records, write_json, write_records
from nutgraf.data import article_store
from nutgraf.data.prompts import Frame
from nutgraf.data.rows import Article
from nutgraf.evaluation import error_rates, examples, indicators, published, significance
from nutgraf.evaluation.bootstrap import bootstrap
from nutgraf.evaluation.rouge import ROUGE_TYPES
from nutgraf.modeling.base_files import public_name
from nutgraf.pipeline import artifacts, facts
from nutgraf.report import model_card
from nutgraf.report.formatting import table_records
from nutgraf.storage.artefact import Artefact
from nutgraf.storage.run_folder import RunFolder

Row = dict[str, Any]

logger = logging.getLogger(__name__)

COLUMNS = [
    "system", "source", "n", "rouge1", "rouge2", "rougeL", "rougeLsum", "rougeLsum_low",
    "rougeLsum_high", "loss", "perplexity", "learning_rate", "gradient_accumulation_steps",
    "weight_decay", "lora_r", "train_examples", "train_seconds",
]  # fmt: skip
# The table is read by other programs and keeps its columns; the other intervals lie beside it.
INTERVALS = [f"{kind}_{end}" for kind in ("rouge1", "rouge2", "rougeL") for end in ("low", "high")]


def run(config: Config, folder: RunFolder, outdated: Sequence[Artefact]) -> None:
    """Make model_comparison_results.csv with analysis/, and final_best_model/."""
    for artefact in outdated:
        with artefact.writing() as scratch:
            if artefact.name == "comparison":
                _compare(config, folder, scratch)
            else:
                _final_model(config, folder, scratch / artefact.name)


def _compare(config: Config, folder: RunFolder, scratch: Path) -> None:
    """Write the table and analysis/ into `scratch`."""
    names, final = systems.system_names(config), systems.final_system(config)
    out = scratch / "analysis"
    out.mkdir()
    measured = [_measured(system, config, folder) for system in names]
    cited = [{**asdict(row), "source": "published"} for row in published.COMPARED]
    table = pd.DataFrame([*measured, *cited], columns=COLUMNS)
    table.to_csv(scratch / artifacts.TABLE, index=False)
    intervals = pd.DataFrame(measured, columns=["system", *INTERVALS])
    intervals.to_csv(out / "intervals.csv", index=False)
    by_seed = [
        {**_measured(name, config, folder), "system": model, "seed": seed}
        for name, (model, seed) in systems.trained_models(config).items()
    ]
    pd.DataFrame(by_seed, columns=["seed", *COLUMNS]).to_csv(out / "seeds.csv", index=False)

    test = article_store.read_split(folder.data("test"))
    scores = {system: read_records(folder.scores(system)) for system in names}
    summaries = {system: read_records(folder.summaries(system)) for system in names}
    errors = _errors(test, scores, summaries)
    errors.to_csv(out / "errors.csv", index=False)
    error_rates.group_rates(errors).to_csv(out / "rates.csv", index=False)
    if config.facts.articles:
        facts.table(config, folder).to_csv(out / "facts.csv", index=False)
    pairs = systems.compared_pairs(config)
    resamples, seed = config.score.resamples, config.score.seed
    differences = significance.difference_table(scores, pairs, resamples, seed)
    pd.DataFrame(differences).to_csv(out / "differences.csv", index=False)
    _warn_of_worse_rounds(differences)
    along_scores = examples.examples_by_score(test, summaries, scores[final], final)
    write_records(out / "examples.jsonl", along_scores)
    faulty = examples.examples_by_fault(test, summaries[final], scores[final], final)
    write_records(out / "error_examples.jsonl", faulty)


def _warn_of_worse_rounds(differences: Sequence[Row]) -> None:
    for row in differences:
        before = systems.start_of_round(row["system"])
        if (row["other"], row["metric"], row["verdict"]) == (before, "rougeLsum", "worse"):
            logger.warning(
                f"{row['system']} is worse than {before} by {-row['difference']:.2f} ROUGE-Lsum, "
                "and is the model to take away: lower train.rounds or preference.learning_rate"
            )


def _measured(system: str, config: Config, folder: RunFolder) -> Row:
    """Return a system's row of the table, with the intervals of all ROUGE variants."""
    scores = read_records(folder.scores(system))
    row: Row = {"system": system, "source": "measured", "n": len(scores)}
    for kind in ROUGE_TYPES:
        values = [score[kind] for score in scores]
        interval = bootstrap(values, config.score.resamples, config.score.seed)
        row[kind] = round(interval.mean, 2)
        row[f"{kind}_low"], row[f"{kind}_high"] = round(interval.low, 2), round(interval.high, 2)
    if systems.base_system(system) in systems.MODEL_SYSTEMS:
        summaries = read_records(folder.summaries(system))
        nll = sum(summary["reference_nll"] for summary in summaries)
        tokens = sum(summary["reference_tokens"] for summary in summaries)
        row["loss"] = round(nll / tokens, 4)
        row["perplexity"] = round(units.perplexity(nll, tokens), 3)
    if systems.base_system(system) in systems.TRAINED_SYSTEMS:
        record = read_json(folder.model(system) / "train.json")
        for name in ("learning_rate", "gradient_accumulation_steps", "weight_decay", "lora_r"):
            row[name] = record[name]
        row["train_examples"], row["train_seconds"] = record["examples"], record["seconds"]
    return row


def _errors(
    test: Sequence[Article],
    scores: Mapping[str, Sequence[Row]],
    summaries: Mapping[str, Sequence[Row]],
) -> pd.DataFrame:
    """Return a row a system and article, the references as a system that read all of it.

    Columns: id, system, words of the article, tokens cut off it before the system read it, and the
    indicators.
    """
    references = indicators.indicators_many(
        [(a.article, a.reference, a.reference, None) for a in test],
        progress="references, indicators",
    )
    uncut = [{"trimmed_tokens": 0}] * len(test)
    return pd.DataFrame(
        {
            "id": article.id,
            "system": system,
            "article_words": len(article.article.split()),
            "trimmed_tokens": summary["trimmed_tokens"],
            **{name: row[name] for name in indicators.MEANINGS},
        }
        for system, rows in {"reference": references, **scores}.items()
        for article, row, summary in zip(test, rows, summaries.get(system, uncut), strict=True)
    )


def _final_model(config: Config, folder: RunFolder, out: Path) -> None:
    from nutgraf.generation.decoding import generation_config, recipe
    from nutgraf.modeling.load import end_tokens, load_tokenizer

    out.mkdir(parents=True)
    system = systems.final_system(config)
    final = folder.model(system)
    shutil.copy2(final / "adapter_model.safetensors", out)
    adapter = read_json(final / "adapter_config.json")
    # The base's name: peft writes the path that it was loaded from on this machine.
    name, revision = public_name(config.model)
    adapter |= {"base_model_name_or_path": name, "revision": revision}
    write_json(out / "adapter_config.json", adapter)
    tokenizer, ends = load_tokenizer(config.model), end_tokens(config.model)
    with files.written_by_others(out):
        tokenizer.save_pretrained(str(out))
        generation_config(tokenizer, config.generate, ends).save_pretrained(str(out))
    train = read_json(folder.model("best") / "train.json")
    rounds = [read_json(folder.model(n) / "train.json") for n in systems.round_systems(config)]
    frame = Frame(*folder.frame)
    rates = pd.read_csv(folder / "analysis" / "rates.csv")
    intervals = pd.read_csv(folder / "analysis" / "intervals.csv")
    about = {
        "base": train["base"],
        **config.model_dump(mode="json", include={"model", "prompt", "generate"}),
        "frame": frame,
        "recipe": recipe(tokenizer, config.prompt, ends, frame),
        "train": train,
        "rounds": [{**config.preference.model_dump(), "pairs": r["pairs"]} for r in rounds],
        **({"choice": read_json(folder / "choice.json")} if systems.fits_choice(config) else {}),
        "study": model_card.study_record(
            config,
            table_records(pd.read_csv(folder / artifacts.TABLE)),
            table_records(intervals[intervals["system"] == system])[0],
            table_records(rates[(rates["group"] == error_rates.ALL) & (rates["system"] == system)]),
            read_json(folder / "data" / "card.json")["splits"],
        ),
    }
    write_json(out / "nutgraf.json", about)
    files.write_text(out / "README.md", model_card.model_card(about, "adapter"))
