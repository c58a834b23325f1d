"""Trainings on pairs: their loss, which candidates make a pair, what holds for every training."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
import torch
from helpers import little
from safetensors.torch import load_file

from nutgraf.config import Config, LoraSettings, ModelConfig, TrainConfig
from nutgraf.config.load import build_config
from nutgraf.core.errors import Failure
from nutgraf.data.examples import Example
from nutgraf.modeling.adapters import with_adapter
from nutgraf.modeling.load import choose_device, load_base, load_tokenizer
from nutgraf.modeling.losses import summary_losses
from nutgraf.training import budget
from nutgraf.training.fit import fit_adapter
from nutgraf.training.job import Preference, TrainingJob
from nutgraf.training.preference import best_and_worst, preference_losses

PAIRS = 8


@pytest.fixture(scope="module")
def config(tiny_base: Path) -> Config:
    model = ModelConfig(base=str(tiny_base), dtype="fp32", device="cpu")
    train = TrainConfig(max_examples=32, learning_rate=5e-3, eval_examples=4)
    return Config(model=model, train=train, lora=LoraSettings(r=4, alpha=8))


@pytest.fixture(scope="module")
def first(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an adapter that a training on references has left."""
    out = tmp_path_factory.mktemp("first") / "best"
    rows = little.rows(config.model)
    fit_adapter(TrainingJob(config, rows[:16], rows[16:20], out))
    return out


def nats(config: Config, adapter: Path, rows: list[Example]) -> list[float]:
    pad = load_tokenizer(config.model).pad_token_id
    with with_adapter(load_base(config.model), adapter) as model:
        return [x.nll for x in summary_losses(model, rows, pad, choose_device(config.model))]


@pytest.fixture(scope="module")
def round_job(config: Config, first: Path) -> TrainingJob:
    """Return a round on pairs of unlike lengths."""
    rows = little.rows(config.model)
    pairs = [rows[i] for n in range(PAIRS) for i in (n, n + 20)]
    own = budget.round_config(config.model_copy(), PAIRS)
    train = own.train.model_copy(update={"learning_rate": 5e-3})
    preference = Preference(0.1, 0.0, nats(config, first, pairs))
    return TrainingJob(
        own.model_copy(update={"train": train}),
        pairs,
        rows[16:20],
        first.with_name("unused"),
        start=first,
        preference=preference,
    )


def with_micro_batch(job: TrainingJob, size: int, out: Path) -> TrainingJob:
    return dataclasses.replace(job.with_micro_batch(size), out=out)


def test_the_loss_is_that_of_the_papers() -> None:
    start, tokens = torch.tensor([10.0, 12.0, 20.0, 20.0]), torch.tensor([5, 4, 10, 7])
    at_start = preference_losses(start, start, tokens, 0.1, 0.0)
    assert at_start.tolist() == pytest.approx([math.log(2)] * 2)
    nll = torch.tensor([9.0, 15.0, 26.0, 20.0])
    gains = [(10 - 9) - (12 - 15), (20 - 26) - 0]  # of log-likelihood, better over worse
    expected = [math.log(1 + math.exp(-0.1 * gain)) for gain in gains]
    assert preference_losses(nll, start, tokens, 0.1, 0.0).tolist() == pytest.approx(expected)
    anchored = [expected[0] + 0.5 * 9 / 5, expected[1] + 0.5 * 26 / 10]
    assert preference_losses(nll, start, tokens, 0.1, 0.5).tolist() == pytest.approx(anchored)


ARTICLE = "Mayor Jane Doe of Garehouse opened 25 homes on Monday. Rain fell in the evening."
CANDIDATES = [
    "Rain fell on 99 boats in Paris.",
    "Jane Doe opened 25 homes.",
    "Jane Doe opened 25 homes on Monday.",
    "",
]


@pytest.mark.parametrize(
    ("reward", "pair"), [("reference", (1, 0)), ("consensus", (2, 0)), ("support", (2, 0))]
)
def test_a_pair_is_the_best_and_the_worst_by_the_reward(reward: str, pair: tuple[int, int]) -> None:
    config = build_config({"preference": {"reward": reward}})
    assert best_and_worst(ARTICLE, "Jane Doe opened 25 homes.", CANDIDATES, config) == pair


def test_the_reference_is_read_by_one_reward_alone() -> None:
    def pair(reward: str, reference: str) -> tuple[int, int] | None:
        config = build_config({"preference": {"reward": reward}})
        return best_and_worst(ARTICLE, reference, CANDIDATES, config)

    other = "Rain fell on boats."
    assert pair("reference", other) == (0, 1)
    for reward in ("consensus", "support"):
        assert pair(reward, other) == pair(reward, "Jane Doe opened 25 homes.")


@pytest.mark.parametrize("texts", [["Rain fell."] * 3, ["Rain fell.", "", ""], [""]])
def test_candidates_that_nothing_tells_apart_make_no_pair(texts: list[str]) -> None:
    for reward in ("reference", "consensus", "support"):
        config = build_config({"preference": {"reward": reward}})
        assert best_and_worst(ARTICLE, "Rain fell in the evening.", texts, config) is None


def test_the_better_ones_become_likelier_against_the_worse_from_the_start_on(
    config: Config, round_job: TrainingJob, tmp_path: Path
) -> None:
    out = tmp_path / "round"
    done = fit_adapter(dataclasses.replace(round_job, out=out))
    losses = [row["train_loss"] for row in done.history_records() if row["train_loss"]]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-3)  # it starts where `start` is
    assert losses[-1] < losses[0]
    assert done.best is done.history.evaluations[-1]  # whatever its loss
    start, end = round_job.preference.start_nll, nats(config, out, list(round_job.train))
    margins = [[x[i + 1] - x[i] for i in range(0, len(x), 2)] for x in (start, end)]
    assert all(after > before for before, after in zip(*margins, strict=True))


def test_a_pair_at_a_time_is_two_pairs_at_a_time(round_job: TrainingJob, tmp_path: Path) -> None:
    outs = {size: tmp_path / f"by{size}" for size in (2, 4)}
    for size, out in outs.items():
        fit_adapter(with_micro_batch(round_job, size, out))
    one, two = (load_file(out / "adapter_model.safetensors") for out in outs.values())
    for name, weight in one.items():
        torch.testing.assert_close(weight, two[name], atol=2e-4, rtol=0)


def test_a_round_that_was_stopped_ends_with_the_same_bytes(
    round_job: TrainingJob, tmp_path: Path
) -> None:
    whole, stopped = (
        dataclasses.replace(round_job, out=tmp_path / n) for n in ("whole", "stopped")
    )
    fit_adapter(whole)
    steps = itertools.count(1)

    def on_step(_: int) -> None:
        if next(steps) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_adapter(dataclasses.replace(stopped, on_step=on_step))
    fit_adapter(stopped)
    one, other = (job.out / "adapter_model.safetensors" for job in (whole, stopped))
    assert one.read_bytes() == other.read_bytes()


def test_pairs_stay_whole_whatever_the_processes_and_the_memory(round_job: TrainingJob) -> None:
    order = round_job.order
    assert sorted(order) == list(range(2 * PAIRS))
    assert all(order[i] + 1 == order[i + 1] and order[i] % 2 == 0 for i in range(0, len(order), 2))
    train = TrainConfig(micro_batch_size=4, gradient_accumulation_steps=2)
    for processes in range(1, 6):
        micro_batch, accumulated = budget.split_batch(train, processes, together=2)
        assert micro_batch % 2 == 0
        assert micro_batch <= train.micro_batch_size
        assert micro_batch * accumulated * processes >= 8
    assert round_job.smaller_micro_batch(4, "full") == 2
    with pytest.raises(Failure, match="no memory on the device for one pair of up to"):
        round_job.smaller_micro_batch(2, "full")
