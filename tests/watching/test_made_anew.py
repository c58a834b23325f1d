"""What is read of a study of which parts are there already, while they are made anew or go on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from helpers.watched import CONFIG, TRIALS, snapshot, write_search, write_trial

from nutgraf.config import Config, load
from nutgraf.config.load import to_yaml, with_overrides
from nutgraf.core.files import write_json, write_text
from nutgraf.pipeline import artifacts, runner
from nutgraf.pipeline.run_log import logged
from nutgraf.pipeline.runner import run_stage
from nutgraf.planning import benchmark
from nutgraf.search import ray_tune
from nutgraf.storage.run_folder import RunFolder
from nutgraf.watching.files import LogTail
from nutgraf.watching.snapshot import Watcher
from nutgraf.watching.stages import artefacts

LITTLE = {
    "data": {"train_examples": 24, "validation_examples": 6, "test_examples": 4},
    "prompt": {"max_tokens": 320, "max_article_tokens": 240},
    "train": {"max_examples": 24, "eval_every": 8, "eval_examples": 6},
    "search": {"trials": 2, "together": "off", "rouge_examples": 4},
    "tracking": {"to": []},
}
WHOLE = {"row_nll": [1.0], "row_tokens": [1], "seconds": 7.5}


def stage_of(seen: dict[str, Any], name: str) -> dict[str, Any]:
    return next(stage for stage in seen["stages"] if stage["name"] == name)


def write_manifests(folder: Path, created: float, *names: str) -> None:
    """Write manifests of finished artefacts."""
    for name in names:
        manifest = {"artefact": name, "created": created, "seconds": 5.0, "carried_on": False}
        write_json(folder / "manifests" / f"{name.replace('/', '.')}.json", manifest)


def write_log(folder: Path, stage: str, *texts: str) -> None:
    """Write the log of a session that is in a stage, which began at 2000."""
    begins = {"time": 1990.0, "level": "info", "stage": "", "text": "begins: process 7"}
    rows = [{"time": 2000.0, "level": "info", "stage": stage, "text": text} for text in texts]
    lines = "".join(json.dumps(row) + "\n" for row in [begins, *rows])
    write_text(folder / "log.jsonl", lines)


def write_curve(file: Path, *losses: float) -> None:
    rows = [
        {"step": 8 * i, "examples": 80 * i, "validation_loss": loss, "train_loss": loss}
        for i, loss in enumerate(losses, 1)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".csv":
        pd.DataFrame(rows).to_csv(file, index=False)
    else:
        write_json(file, rows)


class Planned(SimpleNamespace):
    """A plan of a search that takes ten seconds a trial."""

    busy = None

    def record(self, time: float) -> dict[str, Any]:
        seconds = 10.0 * self.trials
        return {"made": time, "stages": [{"name": "search", "seconds": seconds, "starting": 0.0}]}


def test_a_finished_search_that_goes_on_shows_its_new_trials_and_a_plan_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config: Config = load.build_config({**LITTLE, "run": str(tmp_path)})
    folder = RunFolder(config.run)
    write_text(folder.config, to_yaml(config))
    run_stage("prepare", config, folder)
    seen: list[dict[str, Any]] = []

    class Stopped(Exception):
        pass

    def trained(out: Path, numbers: range) -> None:
        for n in numbers:
            values = {"train.learning_rate": n / 1000}
            record = {"values": values, "history": [[24, 2.5]], **WHOLE}
            write_text(out / str(n) / "trial.json", json.dumps(record))

    def searched(config: Config, train: Any, validation: Any, out: Path, *_: Any) -> Any:
        trained(out, range(1, config.search.trials))
        seen.append(Watcher(tmp_path, who=lambda: "this test").latest())
        raise Stopped

    def planned(config: Config, *_: Any) -> Planned:
        return Planned(trials=config.search.trials)

    monkeypatch.setattr(ray_tune, "run_search", searched)
    monkeypatch.setattr(benchmark, "worth_planning", lambda config: True)
    monkeypatch.setattr(benchmark, "forecast", planned)

    with artifacts.search(config, folder)[0].writing(resume=True) as scratch:
        out = scratch / "search"
        trained(out / "trials", range(1, 3))
        table = "trial,status,examples,chosen,error\n1,completed,24,False,\n2,stopped,24,True,\n"
        (out / "trials.csv").write_text(table)
        (out / "history.csv").write_text("trial\n")
        (out / "best.yaml").write_text("{}")
        write_json(out / "plan.json", planned(config).record(1.0))
    before = sorted(path.name for path in (tmp_path / "search").iterdir())

    for trials in (5, 6, 6):  # more, even more after a stop, and resumed as it was
        config = with_overrides(config, {"search.trials": trials})
        write_text(folder.config, to_yaml(config))
        plan = tmp_path / ".making/search/search/plan.json"
        planned_at = plan.stat().st_mtime_ns if plan.exists() else 0
        with pytest.raises(Stopped):
            run_stage("search", config, folder)
        assert list(seen[-1]["trials"]) == [str(n) for n in range(1, trials)]
        assert {trial["state"] for trial in seen[-1]["trials"].values()} == {"completed"}
        assert stage_of(seen[-1], "search")["planned"] == 10 * trials
        assert (plan.stat().st_mtime_ns == planned_at) == (len(seen) == 3)
    assert sorted(path.name for path in (tmp_path / "search").iterdir()) == before
    assert (tmp_path / "search" / "trials.csv").read_text() == table


def test_a_search_that_is_made_anew_has_its_own_plan(tmp_path: Path) -> None:
    write_search(tmp_path)
    old = {"stages": [{"name": "search", "seconds": 5.0, "starting": 1.0}]}
    write_json(tmp_path / "search/plan.json", old)
    assert stage_of(snapshot(tmp_path), "search")["planned"] == 100
    (tmp_path / ".making/search/search/plan.json").unlink()  # one of a cluster has none
    assert stage_of(snapshot(tmp_path), "search")["planned"] is None
    (tmp_path / ".making/search").rename(tmp_path / "gone")
    assert stage_of(snapshot(tmp_path), "search")["planned"] == 6


def test_a_model_that_is_trained_anew_is_as_far_as_its_new_training(tmp_path: Path) -> None:
    write_text(tmp_path / "config.yaml", to_yaml(CONFIG))
    write_manifests(tmp_path, 1000.0, "models/baseline", "models/best")
    for name in ("baseline", "best"):
        write_json(tmp_path / "models" / name / "train.json", {})
        write_json(tmp_path / "models" / name / "samples.json", {"evaluations": [{}, {}]})
        write_curve(tmp_path / "models" / name / "history.csv", 3.0, 2.5, 2.2, 2.1)
    scratch = tmp_path / ".making/models.baseline"
    write_json(scratch / "claim.json", {})
    write_log(tmp_path, "train", "[3/7] train")
    seen = snapshot(tmp_path)
    assert stage_of(seen, "train")["share"] is None  # best's turn is still to come
    assert list(seen["trainings"]) == ["best"]

    write_curve(scratch / "models/baseline.curves.json", 2.9)
    seen = snapshot(tmp_path)
    baseline, best = seen["trainings"].values()
    assert (baseline["seen"], baseline["of"], baseline["written"]) == (80, 320, 0)
    assert baseline["points"] == [(80, 2.9)]
    assert (best["seen"], best["of"], best["written"]) == (320, 320, 2)
    assert stage_of(seen, "train")["share"] == 0.125
    write_log(tmp_path, "train", "[3/7] train", "models/best: done before")
    assert stage_of(snapshot(tmp_path), "train")["share"] == 0.625
    write_manifests(tmp_path, 2001.0, "models/best")  # or made in this session
    write_log(tmp_path, "train", "[3/7] train")
    assert stage_of(snapshot(tmp_path), "train")["share"] == 0.625


def test_summaries_that_are_written_anew_count_as_far_as_they_are_written(tmp_path: Path) -> None:
    write_text(tmp_path / "config.yaml", to_yaml(CONFIG))
    names = artefacts(CONFIG)["generate"]
    assert names[-2:] == ["summaries/baseline", "summaries/best"]
    write_json(tmp_path / "data/card.json", {"splits": {"test": {"sampled": 8},
                                                        "train": {"sampled": 32}}})  # fmt: skip
    write_manifests(tmp_path, 1000.0, *names)
    assert stage_of(snapshot(tmp_path), "generate")["state"] == "finished"
    current = [f"{name}: done before" for name in names[:-2]]
    write_log(tmp_path, "generate", "[4/7] generate", *current)
    scratch = tmp_path / ".making/summaries.baseline"
    write_json(scratch / "claim.json", {})
    share = len(current) / len(names)
    assert stage_of(snapshot(tmp_path), "generate")["share"] == round(share, 3)
    write_text(scratch / "candidates.part", "{}\n" * 4)
    share += 0.5 / len(names)
    assert stage_of(snapshot(tmp_path), "generate")["share"] == round(share, 3)


@pytest.mark.parametrize(("articles", "total"), [(16, 16), (64, 32)])
def test_candidates_of_a_fitted_choice_count_among_training_articles(
    tmp_path: Path, articles: int, total: int
) -> None:
    overrides = {"generate.choose": "fitted", "generate.candidates": 4}
    config = with_overrides(CONFIG, {**overrides, "preference.articles": articles})
    write_text(tmp_path / "config.yaml", to_yaml(config))
    write_json(tmp_path / "data/card.json", {"splits": {"test": {"sampled": 4},
                                                        "train": {"sampled": 32}}})  # fmt: skip
    write_text(tmp_path / ".making/choice/candidates.part", "{}\n" * 8)
    share = 8 / total / len(artefacts(config)["generate"])
    assert stage_of(snapshot(tmp_path), "generate")["share"] == round(share, 3)


def test_the_log_says_which_artefacts_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    of_stage = [folder.artefact(name) for name in ("models/baseline", "models/best")]
    with of_stage[0].writing() as scratch:
        write_text(scratch / "models/baseline/train.json", "{}")
    monkeypatch.setitem(artifacts.BY_STAGE, "train", lambda config, folder: of_stage)
    monkeypatch.setattr(runner, "_stage", lambda name: SimpleNamespace(run=lambda *_: None))
    log = LogTail(tmp_path / "log.jsonl")
    with logged(tmp_path) as writing:
        writing.stage = "train"
        run_stage("train", CONFIG, folder)
    log.update()
    assert log.current == {"models/baseline"}
    with logged(tmp_path):
        log.update()
    assert log.current == set()


def test_a_stopped_trial_names_those_that_it_was_judged_against(tmp_path: Path) -> None:
    """As many as ran at a time when the search began, whatever `search.concurrent` is now."""
    write_search(tmp_path)
    write_json(tmp_path / TRIALS.parent / "together.json", {"concurrent": 3})
    write_trial(tmp_path, 3, [2.9, 2.8])
    why = snapshot(tmp_path)["trials"]["2"]["why"]
    assert why.endswith("was not among the best 1/2 of trials 1 to 3 there")
