"""What is read of a study from its run folder while it runs, stops and ends."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from helpers.watched import (
    CONFIG,
    TRIALS,
    held,
    snapshot,
    write_curves,
    write_samples,
    write_search,
    write_trial,
)

from nutgraf.config.load import with_overrides
from nutgraf.core.errors import UserError
from nutgraf.pipeline.artifacts import BY_STAGE
from nutgraf.search.ledger import Ledger, Steer
from nutgraf.storage.run_folder import RunFolder
from nutgraf.watching.curves import thinned
from nutgraf.watching.files import LogTail
from nutgraf.watching.snapshot import Watcher, changes
from nutgraf.watching.stages import artefacts


def states(seen: dict) -> list[str]:
    return [trial["state"] for trial in seen["trials"].values()]


def test_a_running_search_shows_who_runs_who_was_stopped_and_why(tmp_path: Path) -> None:
    write_search(tmp_path)
    with held(tmp_path):
        seen = snapshot(tmp_path)
    assert (seen["state"], seen["holder"]) == ("running", "process 7 on vm since yesterday")
    assert states(seen) == ["completed", "stopped", "error", "running", "queued"]
    one, two, three, four, five = seen["trials"].values()
    assert two["points"] == [[80, 4.0]]  # what it did past its rung does not count
    assert two["why"] == (
        "after 80 articles its loss 4.000 was not among the best 1/2 of trials 1 to 2 there"
    )
    assert three["why"] == "ValueError: a <b>bad</b> thing"
    assert (one["loss"], one["seen"], four["seen"], five["loss"]) == (2.1, 320, 120, None)
    stages = {stage["name"]: stage for stage in seen["stages"]}
    assert [stages[name]["state"] for name in ("prepare", "search", "train")] == [
        "finished", "running", "waiting",
    ]  # fmt: skip
    assert stages["prepare"]["seconds"] == 5
    assert (stages["search"]["planned"], stages["search"]["share"]) == (100, 0.562)


def test_what_people_changed_is_seen_as_the_search_will_have_it(tmp_path: Path) -> None:
    write_search(tmp_path)
    write_trial(tmp_path, 7, [2.0, 1.9])
    assert list(snapshot(tmp_path)["trials"]) == ["1", "2", "3", "4", "5"]
    assert snapshot(tmp_path)["search"]["steered"] is False
    values = {n: {"train.learning_rate": n / 1000, "lora.alpha": 2 ** (n % 8)} for n in (2, 4, 7)}
    ledger = Ledger(tmp_path / TRIALS)
    ledger.add(Steer("a", 1.0, "continue", 2, values[2], 1, 80, 2, 160))
    ledger.add(Steer("b", 2.0, "stop", 4, values[4], 1, 80, 1, 80))
    ledger.add(Steer("c", 3.0, "add", 7, values[7], 0, 0, None, 320))
    ledger.add(Steer("d", 4.0, "stop", 1, {}, refused="it has ended already"))
    with held(tmp_path):
        seen = snapshot(tmp_path)
    assert seen["search"]["steered"] is True
    assert list(seen["trials"]) == ["1", "2", "3", "4", "5", "7"]
    assert states(seen) == ["completed", "stopped", "error", "stopped", "queued", "running"]
    assert seen["trials"]["2"]["points"] == [[80, 4.0], [160, 3.9]]
    assert [seen["trials"][n]["why"] for n in ("1", "2", "4")] == [
        "",
        "a person let trial 2 go on, from 80 to 160 articles",
        "a person stopped trial 4 after 80 articles",
    ]
    assert Watcher(tmp_path, who=lambda: None).latest()["search"]["steered"] is False


def test_a_search_whose_process_is_gone_is_no_longer_running(tmp_path: Path) -> None:
    write_search(tmp_path)
    with held(tmp_path):
        pass
    seen = snapshot(tmp_path)
    assert (seen["state"], seen["holder"]) == ("stopped", None)
    assert states(seen) == ["completed", "stopped", "error", "interrupted", "queued"]


@pytest.mark.parametrize(
    ("level", "last", "state"),
    [
        ("info", "trial 3/6", "killed"),
        ("info", "ends: all that was asked for is there", "stopped"),
        ("warning", "stopped by SIGTERM", "stopped"),
        ("error", "the disk is full", "failed"),
    ],
)
def test_how_a_study_ended_is_seen_in_its_log(
    tmp_path: Path, level: str, last: str, state: str
) -> None:
    write_search(tmp_path)
    line = {"time": 1.0, "level": level, "stage": "search", "text": last}
    (tmp_path / "log.jsonl").write_text(json.dumps(line) + "\n")
    assert snapshot(tmp_path)["state"] == state


def test_the_stages_have_the_artefacts_that_the_pipeline_makes(tmp_path: Path) -> None:
    config = with_overrides(CONFIG, {"train.seeds": [42, 43], "generate.candidates": 4})
    folder = RunFolder(tmp_path)
    by_stage = {stage: [a.name for a in of(config, folder)] for stage, of in BY_STAGE.items()}
    assert artefacts(config) == by_stage


def test_to_ask_who_runs_a_study_keeps_none_from_beginning(tmp_path: Path) -> None:
    write_search(tmp_path)
    watcher = Watcher(tmp_path)
    assert watcher.latest()["holder"] is None
    with held(tmp_path):  # would wait for ever for a lock that the watcher has
        assert Watcher(tmp_path).latest()["holder"]


def test_only_trials_with_news_are_news(tmp_path: Path) -> None:
    write_search(tmp_path)
    watcher = Watcher(tmp_path)
    before = watcher._take()
    assert changes(before, watcher._take()) == {}
    write_trial(tmp_path, 4, [2.8, 2.6])
    (tmp_path / TRIALS / "6").mkdir()
    news = changes(before, after := watcher._take())
    assert list(news["trials"]) == ["4"]
    assert news["trials"]["4"]["loss"] == 2.6
    (tmp_path / TRIALS / "5" / "trial.json").unlink()
    assert changes(after, watcher._take())["trials"] == {"5": None}


def test_half_written_and_damaged_files_are_as_if_they_were_not_there(tmp_path: Path) -> None:
    write_search(tmp_path)
    (tmp_path / TRIALS / "4" / "adapter.curves.json").write_text('[{"exam')
    (tmp_path / ".making/search/search/plan.json").write_text("{")
    seen = snapshot(tmp_path)
    assert seen["trials"]["4"]["seen"] == 80
    assert seen["stages"][1]["planned"] is None
    (tmp_path / "config.yaml").write_text("train: {epochs: 3}")  # of another version
    seen = snapshot(tmp_path)
    assert (seen["state"], seen["trials"]) == ("stopped", {})
    assert "train.epochs" in seen["problems"][0]["text"]


def test_curves_of_a_trial_and_of_nobody(tmp_path: Path) -> None:
    write_search(tmp_path)
    watcher = Watcher(tmp_path)
    watcher.latest()
    write_curves(tmp_path, 4, 160)
    assert [watcher.curves("4")[-1][name] for name in ("examples", "grad_norm")] == [160, 1.5]
    assert watcher.curves("1") == []
    assert watcher.samples("1") == {}
    write_samples(tmp_path, 4, "One.", "Two.")
    assert watcher.samples("4")["evaluations"][1]["texts"] == ["Two."]
    for name in ("../4", "7", ""):
        with pytest.raises(UserError, match="there is no training"):
            watcher.curves(name)
        with pytest.raises(UserError, match="there is no training"):
            watcher.samples(name)


def test_a_log_is_read_on_from_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = LogTail(path)
    log.update()

    def add(text: str, level: str = "info", stage: str = "", end: str = "\n") -> None:
        row = {"time": 1.0 + log.total, "level": level, "stage": stage, "text": text}
        with path.open("a") as file:
            file.write(json.dumps(row) + end)
        log.update()

    add("begins: process 1")
    add("no memory", "warning", "search")
    assert [row["text"] for row in log.problems] == ["no memory"]
    assert log.began == {"search": 2.0}
    path.write_bytes(path.read_bytes() + b'{"time": 4, "te\n')  # torn by a kill
    add("begins: process 2")
    assert ([row["text"] for row in log.lines][-1], len(log.problems)) == ("begins: process 2", 0)
    add("a whole line", end="")
    assert log.total == 3  # which is not there before its end is
    path.write_text("")
    log.update()
    assert (log.total, list(log.lines)) == (0, [])


def test_thinned_curves_keep_their_ends_and_peaks() -> None:
    points = [(float(x), math.sin(x / 50)) for x in range(10_000)]
    points[4321] = (4321.0, 9.0)
    few = thinned(points, 100)
    assert (len(few), few[0], few[-1]) == (100, points[0], points[-1])
    assert points[4321] in few
    assert few == sorted(few)
    assert thinned(points[:50], 100) == points[:50]


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist: give the folder of a study with --run"):
        snapshot(tmp_path / "no")
    assert snapshot(tmp_path)["state"] == "empty"
