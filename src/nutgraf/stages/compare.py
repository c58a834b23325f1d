"""Compare: the table, the rows behind it, and the folder that a user takes away."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from nutgraf import articles, differences, errors, metrics, published
from nutgraf.articles import Article
from nutgraf.card import model_card
from nutgraf.runfolder import (
    RunFolder,
    read_json,
    read_records,
    write_json,
    write_records,
    write_text,
)
from nutgraf.settings import Config
from nutgraf.systems import MODELS, SYSTEMS, TRAINED

TABLE = "model_comparison_results.csv"
COLUMNS = [
    "system", "source", "n", "rouge1", "rouge2", "rougeL", "rougeLsum", "rougeLsum_low",
    "rougeLsum_high", "loss", "perplexity", "learning_rate", "gradient_accumulation_steps",
    "weight_decay", "lora_r", "train_examples", "train_seconds",
]  # fmt: skip


def run(config: Config, folder: RunFolder, force: bool = False) -> bool:
    """Make model_comparison_results.csv with analysis/, and final_best_model/."""
    scored = [f"scores/{system}" for system in SYSTEMS]
    table = folder.artefact(
        "comparison",
        outputs=[TABLE, "analysis"],
        inputs=[*scored, *(f"models/{name}" for name in TRAINED)],
        settings=config.model_dump(mode="json", include={"score"}),
    )
    anything = False
    if force or not table.is_current:
        with table.writing() as scratch:
            _table(config, folder).to_csv(scratch / TABLE, index=False)
            _analysis(config, folder, scratch / "analysis")
        anything = True
    final = folder.artefact("final_best_model", inputs=["comparison", "models/best"])
    if force or not final.is_current:
        with final.writing() as scratch:
            _final_model(config, folder, scratch / "final_best_model")
        anything = True
    return anything


def _table(config: Config, folder: RunFolder) -> pd.DataFrame:
    rows = [_measured(system, config, folder) for system in SYSTEMS]
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
    return pd.DataFrame(rows, columns=COLUMNS)


def _measured(system: str, config: Config, folder: RunFolder) -> dict[str, Any]:
    scores = read_records(folder.scores(system))
    row: dict[str, Any] = {"system": system, "source": "measured", "n": len(scores)}
    for name in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
        row[name] = round(sum(s[name] for s in scores) / len(scores), 2)
    interval = metrics.bootstrap(
        [s["rougeLsum"] for s in scores], config.score.resamples, config.score.seed
    )
    row["rougeLsum_low"], row["rougeLsum_high"] = round(interval.low, 2), round(interval.high, 2)
    if system in MODELS:
        summaries = read_records(folder.summaries(system))
        nll = sum(s["reference_nll"] for s in summaries)
        tokens = sum(s["reference_tokens"] for s in summaries)
        row["loss"] = round(nll / tokens, 4)
        row["perplexity"] = round(metrics.perplexity(nll, tokens), 3)
    if system in TRAINED:
        record = read_json(folder.model(system) / "train.json")
        for name in ("learning_rate", "gradient_accumulation_steps", "weight_decay", "lora_r"):
            row[name] = record[name]
        row["train_examples"], row["train_seconds"] = record["examples"], record["seconds"]
    return row


def _analysis(config: Config, folder: RunFolder, out: Path) -> None:
    """errors.csv for the systems and the references themselves, examples.jsonl to read, and
    differences.csv: best against every other system."""
    test = articles.read(folder.data("test"))
    scores = {system: read_records(folder.scores(system)) for system in SYSTEMS}
    rows = [
        {
            "id": a.id,
            "system": "reference",
            **errors.indicators(a.article, a.highlights, a.highlights),
        }
        for a in test
    ]
    for system in SYSTEMS:
        for score in scores[system]:
            indicators = {k: v for k, v in score.items() if not k.startswith("rouge")}
            rows.append({"id": score["id"], "system": system, **indicators})
    out.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(out / "errors.csv", index=False)
    against = differences.table(scores, "best", config.score.resamples, config.score.seed)
    pd.DataFrame(against).to_csv(out / "differences.csv", index=False)
    write_records(out / "examples.jsonl", _examples(folder, test))


def _examples(folder: RunFolder, test: list[Article], count: int = 10) -> list[dict[str, Any]]:
    """Articles along the range of the best model's ROUGE-Lsum, evenly by rank, worst to best."""
    best = read_records(folder.scores("best"))
    by_score = sorted(range(len(best)), key=lambda i: best[i]["rougeLsum"])
    count = min(count, len(best))
    ranks = sorted({round(k * (len(best) - 1) / max(1, count - 1)) for k in range(count)})
    texts = {s: [row["text"] for row in read_records(folder.summaries(s))] for s in SYSTEMS}
    chosen = []
    for rank in ranks:
        i = by_score[rank]
        article = test[i]
        chosen.append(
            {
                "id": article.id,
                "article": article.article,
                "reference": article.highlights,
                "summaries": {s: texts[s][i] for s in SYSTEMS},
                "flags": {s: errors.spans(article.article, texts[s][i]) for s in SYSTEMS},
                "why": f"rank {rank + 1} of {len(best)} by ROUGE-Lsum of best "
                f"({best[i]['rougeLsum']:.1f}), from the worst",
            }
        )
    return chosen


def _final_model(config: Config, folder: RunFolder, out: Path) -> None:
    from nutgraf.model import load_tokenizer

    out.mkdir(parents=True)
    for file in folder.model("best").glob("adapter_*"):
        shutil.copy2(file, out)
    load_tokenizer(config.model).save_pretrained(str(out))
    record = read_json(folder.model("best") / "train.json")
    write_json(
        out / "nutgraf.json",
        {
            "base": record["base"],
            "model": config.model.model_dump(mode="json"),
            "prompt": config.prompt.model_dump(mode="json"),
            "generate": config.generate.model_dump(mode="json"),
            "train": record,
        },
    )
    table = pd.read_csv(folder / TABLE)
    rows = [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]
    write_text(out / "README.md", model_card(config, rows, record))
