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

from nutgraf.config import Config
from nutgraf.config.load import with_overrides
from nutgraf.core.errors import Failure
from nutgraf.core.files import read_json, write_json
from nutgraf.data import article_store
from nutgraf.data.prompts import Renderer
from nutgraf.data.token_store import TokenFile
from nutgraf.evaluation import rouge
from nutgraf.generation.backends import open_backend
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
from nutgraf.storage.run_folder import Artefact, RunFolder
from nutgraf.training.budget import draw_examples, max_examples_seen
from nutgraf.training.tracking import installed_trackers, track_training

logger = logging.getLogger(__name__)


def run(config: Config, folder: RunFolder, outdated: Sequence[Artefact]) -> None:
    """Make search/: trials.csv, history.csv, best.yaml, and a folder for each trial.

    An interrupted search goes on from what the trials' folders hold, ROUGE included.
    """
    study, config = config, artifacts.with_first_seed(config)
    installed_trackers(config.tracking.to)  # a UserError, if one is not installed
    with outdated[0].writing(resume=True) as scratch:
        out = scratch / "search"
        stored = TokenFile(folder.tokens("train"))
        max_seen = max_examples_seen(config.train, config.search.space)
        train = stored.rows(draw_examples(len(stored), max_seen, config.train.seed))
        evaluated = max(config.train.eval_examples, config.search.rouge_examples)
        needed = max(evaluated, config.generate.batch_size)
        validation = TokenFile(folder.tokens("validation")).first(needed)
        prompts = [encoded.prompt.ids for encoded in validation]
        examples = [*train.loaded.values()]
        plan = out / "plan.json"
        # What this machine would take says nothing of a cluster.
        if not plan.exists() and config.ray.address is None and benchmark.worth_planning(config):
            splits = read_json(folder / "data" / "card.json")["splits"]
            sampled = {split: counts["sampled"] for split, counts in splits.items()}
            planned = benchmark.forecast(study, examples, prompts, sampled)
            write_json(plan, planned.record(time.time()))
            logger.info(str(planned))
        # Noted, since a search that is carried on does not change its way.
        if not (out / "together.json").exists():
            write_json(out / "together.json", packing.choose_packing(config, examples).record())
        choice = packing.Choice.from_record(read_json(out / "together.json"))
        logger.info(choice.why)
        rows = [encoded.example for encoded in validation]
        trials = ray_tune.run_search(
            config, train, rows, out / "trials", choice.together, choice.max_packed
        )
        logger.info(describe_proposals([trial.proposed_by for trial in trials]))
        for trial in trials:
            name = f"trial-{trial.number}"
            with track_training(config.tracking.to, folder.path, name, trial.values) as curves:
                for seen, loss in trial.history:
                    curves.log_evaluation(seen, loss)
        _measure_rouge(config, folder, trials, out / "trials", prompts)
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
) -> None:
    """Give each trial that was evaluated its mean ROUGE on the first articles of validation.

    They are measured with the weights of the evaluation that counts, one trial after the other in
    this process (or on the cluster), so that they do not depend on how trials ran. What has been
    measured stands in `out/<number>/rouge.json`.
    """
    renderer = Renderer(load_tokenizer(config.model), config.prompt)
    articles = article_store.read_split(folder.data("validation"))[: config.search.rouge_examples]
    references = [article.reference for article in articles]
    evaluated = {out / str(trial.number): trial for trial in trials if trial.history}
    with open_executor(config, folder.path) as cluster:
        for home, trial in evaluated.items():
            if (home / "rouge.json").exists():
                continue
            with open_backend(config, _adapter_folder(trial, config, home), cluster) as model:
                batches = model.summaries(prompts[: len(references)])
                summaries = {i: summary for batch in batches for i, summary in batch.items()}
            texts = [renderer.text(summaries[i].ids) for i in range(len(references))]
            scores = rouge.score_rouge_many(references, texts, tokenizer=config.score.tokenizer)
            mean = {kind: sum(s[kind] for s in scores) / len(scores) for kind in scores[0]}
            write_json(home / "rouge.json", mean)
    for home, trial in evaluated.items():
        shutil.rmtree(home / EVALUATED, ignore_errors=True)
        trial.rouge = read_json(home / "rouge.json")
        logger.info(
            f"trial {trial.number}  ROUGE-Lsum {trial.rouge['rougeLsum']:.1f} on {len(references)}"
        )


def _adapter_folder(trial: Trial, config: Config, home: Path) -> Path:
    """Return the folder of the adapter at its end, or at the last evaluation that counts."""
    if trial.status == "completed":
        return home / "adapter"
    folder = home / EVALUATED / "adapter"
    lora = with_overrides(config, trial.values).lora
    file = evaluated_weights(home, trial.history[-1][0])
    if not file.exists():
        shutil.rmtree(home)
        raise Failure(
            f"trial {trial.number} has lost {file.name}, which its ROUGE needs: run the same "
            "command again, which trains it anew"
        )
    adapters.save_adapter_weights(load_file(file), lora, folder)
    return folder
