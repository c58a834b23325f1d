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
from nutgraf.config import load as configuration
from nutgraf.core.files import read_json, write_json
from nutgraf.data import article_store
from nutgraf.data.prompts import Renderer
from nutgraf.data.token_store import TokenFile
from nutgraf.evaluation import rouge as metrics
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
from nutgraf.storage.run_folder import RunFolder
from nutgraf.training.budget import draw_examples, max_examples_seen
from nutgraf.training.tracking import following, named

logger = logging.getLogger(__name__)


def run(config: Config, folder: RunFolder, force: bool = False) -> bool:
    """Make search/: trials.csv, history.csv, best.yaml, and a folder for each trial.

    An interrupted search goes on from what the trials' folders hold, ROUGE included.
    """
    study, config = config, artifacts.with_first_seed(config)
    (made,) = artifacts.search(config, folder)
    if made.is_current and not force:
        return False
    named(config.tracking.to)  # a UserError, where one is not installed
    with made.writing(resume=True) as scratch:
        out = scratch / "search"
        renderer = Renderer(load_tokenizer(config.model), config.prompt)
        stored = TokenFile(folder.tokens("train"))
        most = max_examples_seen(config.train, config.search.space)
        train = stored.rows(draw_examples(len(stored), most, config.train.seed))
        used = (
            config.train.eval_examples,
            config.search.rouge_examples,
            config.generate.batch_size,
        )
        held_out = TokenFile(folder.tokens("validation")).first(max(used))
        validation = [ids.example for ids in held_out]
        # Libraries and base are needed from here on anyway, and nothing long is done yet.
        splits = read_json(folder / "data" / "card.json")["splits"]
        numbers = {split: counts["sampled"] for split, counts in splits.items()}
        prompts = [ids.prompt.ids for ids in held_out]
        taken = [*train.held.values()]
        # What this machine would take says nothing of a cluster.
        plans = config.ray.address is None and benchmark.worth_planning(config)
        if plans and not (out / "plan.json").exists():
            planned = benchmark.forecast(study, taken, prompts, numbers)
            write_json(out / "plan.json", planned.record(time.time()))
            logger.info(str(planned))
        # Noted, since a search that is carried on does not change its way.
        if not (out / "together.json").exists():
            write_json(out / "together.json", packing.choose_packing(config, taken).record())
        choice = packing.Choice.from_record(read_json(out / "together.json"))
        logger.info(choice.why)
        trials = ray_tune.run_search(
            config, train, validation, out / "trials", choice.together, choice.max_packed
        )
        logger.info(describe_proposals([trial.proposed_by for trial in trials]))
        for trial in trials:
            name = f"trial-{trial.number}"
            with following(config.tracking.to, folder.path, name, trial.values) as curves:
                for examples, loss in trial.history:
                    curves.evaluated(examples, loss)

        sample = article_store.read_split(folder.data("validation"))[: config.search.rouge_examples]
        references = [article.reference for article in sample]
        _measure_rouge(config, folder, trials, out / "trials", prompts, references, renderer)
        chosen = choose_trial(trials, config.search.finalists)
        logger.info(f"chosen: trial {chosen.number}, validation loss {chosen.loss:.3f}")
        rows = pd.DataFrame([t.record(t is chosen) for t in trials])
        rows.to_csv(out / "trials.csv", index=False)
        history = [(t.number, *point) for t in trials for point in t.history]
        columns = ["trial", "examples", "validation_loss"]
        pd.DataFrame(history, columns=columns).to_csv(out / "history.csv", index=False)
        (out / "best.yaml").write_text(yaml.safe_dump(chosen.values, sort_keys=False))
    return True


def _measure_rouge(
    config: Config,
    folder: RunFolder,
    trials: Sequence[Trial],
    out: Path,
    prompts: Sequence[Sequence[int]],
    references: Sequence[str],
    renderer: Renderer,
) -> None:
    """Give each trial that was evaluated its mean ROUGE on the first articles of validation.

    They are measured with the weights of the evaluation that counts, one trial after the other in
    this process (or on the cluster), so that they do not depend on how trials ran. What has been
    measured stands in `out/<number>/rouge.json`.
    """
    homes = {trial.number: out / str(trial.number) for trial in trials if trial.history}
    with open_executor(config, folder.path) as cluster:
        for trial in trials:
            home = homes.get(trial.number)
            if home is None or (home / "rouge.json").exists():
                continue
            with open_backend(config, _adapter_of(trial, config, home), cluster) as model:
                asked = prompts[: len(references)]
                found = {i: s for batch in model.summaries(asked) for i, s in batch.items()}
            texts = [renderer.text(found[i].ids) for i in range(len(references))]
            scores = metrics.score_rouge_many(references, texts)
            mean = {k: sum(s[k] for s in scores) / len(scores) for k in scores[0]}
            write_json(home / "rouge.json", mean)
    for trial in trials:
        if home := homes.get(trial.number):
            shutil.rmtree(home / EVALUATED, ignore_errors=True)
            trial.rouge = read_json(home / "rouge.json")
            rouge = trial.rouge["rougeLsum"]
            logger.info(f"trial {trial.number}  ROUGE-Lsum {rouge:.1f} on {len(references)}")


def _adapter_of(trial: Trial, config: Config, home: Path) -> Path:
    """The folder of its adapter: at its end, or at the last evaluation that counts."""
    if trial.status == "completed":
        return home / "adapter"
    target = home / EVALUATED / "adapter"
    known = load_file(evaluated_weights(home, trial.history[-1][0]))
    adapters.save_weights(known, configuration.replace_settings(config, trial.values).lora, target)
    return target
