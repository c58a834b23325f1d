"""Search: which settings to train the best model with. Sees train and validation only."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import yaml
from safetensors.torch import load_file

from nutgraf.config import Config, effects
from nutgraf.config.load import with_overrides
from nutgraf.core.errors import Failure
from nutgraf.core.files import digest, read_json, write_json
from nutgraf.data import article_store
from nutgraf.data.token_store import TokenFile
from nutgraf.evaluation import rouge
from nutgraf.generation.backends import open_backend
from nutgraf.generation.draft import decode_summary
from nutgraf.modeling import adapters
from nutgraf.modeling.load import load_tokenizer
from nutgraf.parallel.executor import open_executor
from nutgraf.pipeline import artifacts
from nutgraf.planning import benchmark, packing
from nutgraf.search import ray_tune
from nutgraf.search.trial import (
    EVALUATED,
    Trial,
    choose_trial,
    describe_proposals,
    evaluated_weights,
)
from nutgraf.storage.artefact import Artefact
from nutgraf.storage.run_folder import RunFolder
from nutgraf.training.budget import draw_examples, max_examples_seen
from nutgraf.training.tracking import track_training

logger = logging.getLogger(__name__)

_AT_THE_END = ("trials.csv", "history.csv", "best.yaml")  # all that is written then
_ROUGE_DECIDED_BY = [
    *(name for name in effects.DECIDES if name.startswith("generate.")),
    *("search.rouge_examples", "score.tokenizer"),
    *("tokenizer_files", "generation_config", "chat_template"),
]


def run(config: Config, folder: RunFolder, outdated: Sequence[Artefact]) -> None:
    """Make search/: trials.csv, history.csv, best.yaml, and a folder for each trial.

    An interrupted search goes on from what the trials' folders hold, ROUGE included; so does a
    finished one, if settings of the search itself have changed. Then it is planned anew.
    """
    study, config = config, artifacts.with_first_seed(config)
    with outdated[0].writing(resume=True) as scratch:
        out = scratch / "search"
        # Those of a finished search that goes on would be shown until it ends.
        for name in _AT_THE_END:
            (out / name).unlink(missing_ok=True)
        stored = TokenFile(folder.tokens("train"))
        max_seen = max_examples_seen(config.train, config.search.space)
        train = stored.rows(draw_examples(len(stored), max_seen, config.train.seed))
        evaluated = max(config.train.eval_examples, config.search.rouge_examples)
        needed = max(evaluated, config.generate.batch_size)
        validation = TokenFile(folder.tokens("validation")).first(needed)
        prompts = [encoded.prompt.ids for encoded in validation]
        examples = [*train.loaded.values()]
        plan, settings = out / "plan.json", digest(outdated[0].settings)
        if plan.exists() and read_json(plan).get("settings") != settings:
            plan.unlink()
        # What this machine would take says nothing of a cluster.
        if not plan.exists() and config.ray.address is None and benchmark.worth_planning(config):
            splits = read_json(folder / "data" / "card.json")["splits"]
            sampled = {split: counts["sampled"] for split, counts in splits.items()}
            planned = benchmark.forecast(study, examples, prompts, sampled)
            write_json(plan, planned.record(time.time()) | {"settings": settings})
            logger.info(str(planned))
            if planned.busy:
                logger.warning(planned.busy)
        noted = out / "together.json"
        # Kept, since a search that goes on keeps its way; but what a user asks for holds.
        record = read_json(noted) if noted.exists() else {}
        if not record or config.search.together != "auto":
            record |= packing.choose_packing(config, examples).record()
        begun = record.setdefault("concurrent", config.search.concurrent)
        write_json(noted, record)
        choice = packing.Choice.from_record(record)
        logger.info(choice.why)
        if begun != config.search.concurrent:
            logger.info(f"search.concurrent was {begun} at the start: proposals keep that order")
        rows = [encoded.example for encoded in validation]
        key = digest({n: outdated[0].settings.get(n) for n in _ROUGE_DECIDED_BY})[:16]
        for again in (False, True):
            trials = ray_tune.run_search(
                config, train, rows, out / "trials", choice.together, choice.max_packed, begun
            )
            lost = [trial.number for trial in trials if _has_lost(trial, out / "trials", key)]
            if lost and again:
                raise Failure(f"trials {lost} have lost the weights that their ROUGE needs, twice")
            for number in lost:
                logger.info(f"trial {number} is trained again: it has lost its weights")
                shutil.rmtree(out / "trials" / str(number))
            if not lost:
                break
        logger.info(describe_proposals([trial.proposed_by for trial in trials]))
        for trial in trials:
            name = f"trial-{trial.number}"
            with track_training(config.tracking.to, folder.path, name, trial.values) as curves:
                for seen, loss in trial.history:
                    curves.log_evaluation(seen, loss)
        _measure_rouge(config, folder, trials, out / "trials", prompts, key)
        chosen = choose_trial(trials, config.search.finalists)
        logger.info(f"chosen: trial {chosen.number}, validation loss {chosen.loss:.3f}")
        table = pd.DataFrame([trial.record(trial is chosen) for trial in trials])
        table.to_csv(out / "trials.csv", index=False)
        history = [(trial.number, *point) for trial in trials for point in trial.history]
        columns = ["trial", "examples", "validation_loss"]
        pd.DataFrame(history, columns=columns).to_csv(out / "history.csv", index=False)
        (out / "best.yaml").write_text(yaml.safe_dump(chosen.values, sort_keys=False))


def _measure_rouge(
    config: Config,
    folder: RunFolder,
    trials: Sequence[Trial],
    out: Path,
    prompts: Sequence[Sequence[int]],
    key: str,
) -> None:
    """Give each trial that was evaluated its mean ROUGE on the first articles of validation.

    They are measured with the weights of the evaluation that counts, one trial after the other in
    this process (or on the cluster), so that they do not depend on how trials ran. What has been
    measured stands in `out/<number>/rouge.json`, with the `key` of what decides it.
    """
    tokenizer = load_tokenizer(config.model)
    articles = article_store.read_split(folder.data("validation"))[: config.search.rouge_examples]
    references = [article.reference for article in articles]
    evaluated = {out / str(trial.number): trial for trial in trials if trial.history}
    with open_executor(config, folder.path) as cluster:
        for home, trial in evaluated.items():
            if _measured(trial, home, key):
                continue
            with open_backend(config, _adapter_folder(trial, config, home), cluster) as model:
                batches = model.summaries(prompts[: len(references)])
                summaries = {i: summary for batch in batches for i, summary in batch.items()}
            written = [summaries[i] for i in range(len(references))]
            texts = [
                decode_summary(tokenizer, s.ids, s.finish_reason, config.generate)[0]
                for s in written
            ]
            scores = rouge.score_rouge_many(references, texts, tokenizer=config.score.tokenizer)
            mean = {kind: sum(s[kind] for s in scores) / len(scores) for kind in scores[0]}
            write_json(home / "rouge.json", {**mean, "examples": trial.history[-1][0], "key": key})
    for home, trial in evaluated.items():
        shutil.rmtree(home / EVALUATED, ignore_errors=True)
        trial.rouge = read_json(home / "rouge.json")
        logger.info(
            f"trial {trial.number}  ROUGE-Lsum {trial.rouge['rougeLsum']:.1f} on {len(references)}"
        )


def _measured(trial: Trial, home: Path, key: str) -> bool:
    """Return whether rouge.json is of the evaluation that counts, measured as now."""
    file = home / "rouge.json"
    record = read_json(file) if file.exists() else {}
    return record.get("key") == key and record["examples"] == trial.history[-1][0]


def _has_lost(trial: Trial, out: Path, key: str) -> bool:
    """Return whether a trial has neither ROUGE nor the weights to measure it with."""
    home = out / str(trial.number)
    if not trial.history or _measured(trial, home, key):
        return False
    weights = home / "adapter" / "adapter_model.safetensors"
    if trial.status != "completed":
        weights = evaluated_weights(home, trial.history[-1][0])
    return not weights.exists()


def _adapter_folder(trial: Trial, config: Config, home: Path) -> Path:
    """Return the folder of the adapter at its end, or at the last evaluation that counts."""
    if trial.status == "completed":
        return home / "adapter"
    folder = home / EVALUATED / "adapter"
    weights = load_file(evaluated_weights(home, trial.history[-1][0]))
    adapters.save_adapter_weights(weights, with_overrides(config, trial.values).lora, folder)
    return folder
