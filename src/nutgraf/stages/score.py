"""Score: ROUGE and indicators of every summary, one row an article."""

from __future__ import annotations

from nutgraf import artefacts, articles, errors, metrics
from nutgraf.runfolder import RunFolder, read_records, write_records
from nutgraf.settings import Config
from nutgraf.systems import measured


def run(config: Config, folder: RunFolder, force: bool = False) -> bool:
    """Make scores/<system>.jsonl for every system."""
    anything = False
    systems = measured(config.rivals, config.train.seeds)
    for system, made in zip(systems, artefacts.score(config, folder), strict=True):
        if made.is_current and not force:
            continue
        test = articles.read(folder.data("test"))
        summaries = read_records(folder.summaries(system))
        with made.writing() as scratch:
            rouge = metrics.rouge_many(
                [a.highlights for a in test],
                [s["text"] for s in summaries],
                progress=f"{system}, ROUGE",
            )
            indicators = errors.indicators_many(
                [
                    (a.article, a.highlights, s["text"], s["finish_reason"])
                    for a, s in zip(test, summaries, strict=True)
                ],
                progress=f"{system}, indicators",
            )
            rows = [
                {"id": a.id, **scores, **found}
                for a, scores, found in zip(test, rouge, indicators, strict=True)
            ]
            write_records(scratch / "scores" / f"{system}.jsonl", rows)
        anything = True
    return anything
