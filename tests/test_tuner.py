"""The rule by which the search chooses, and failed trials."""

from __future__ import annotations

from nutgraf.settings import Choices, Range
from nutgraf.trials import Trial, choose
from nutgraf.tuner import _decoded, _space


def trial(number: int, nll: list[float], rouge: float | None = None, **changes: object) -> Trial:
    loss = sum(nll) / (10 * len(nll))
    done = Trial(
        number, {}, "completed", history=[(8, loss)], row_nll=nll, row_tokens=[10] * len(nll)
    )
    done.rouge = {} if rouge is None else {"rougeLsum": rouge}
    for name, value in changes.items():
        setattr(done, name, value)
    return done


def test_a_clearly_lower_loss_wins_whatever_its_rouge() -> None:
    low = trial(1, [10.0, 11.0, 9.0, 10.0], rouge=20.0)
    high = trial(2, [15.0, 16.1, 14.0, 15.0], rouge=30.0)
    assert choose([high, low]) is low


def test_within_the_noise_rouge_decides() -> None:
    low = trial(1, [10.0, 11.0, 9.0, 10.0], rouge=20.0)
    close = trial(2, [9.0, 12.5, 8.0, 10.6], rouge=30.0)
    assert choose([low, close]) is close


def test_without_rouge_the_lowest_loss_wins() -> None:
    low = trial(1, [10.0, 11.0, 9.0, 10.0])
    close = trial(2, [9.0, 12.5, 8.0, 10.6])
    assert choose([close, low]) is low


def test_stopped_and_failed_trials_are_never_chosen() -> None:
    done = trial(1, [20.0, 21.0])
    stopped = trial(2, [1.0, 1.0], status="stopped")
    failed = trial(3, [1.0, 1.0], status="error")
    assert choose([stopped, done, failed]) is done


def test_a_failed_trial_is_a_row_with_its_error_and_no_number() -> None:
    row = Trial(3, {"lora.r": 4}, "error", error="OutOfMemoryError: no room").record(False)
    assert row["status"] == "error"
    assert row["error"] == "OutOfMemoryError: no room"
    assert row["validation_loss"] is None
    assert row["rougeLsum"] is None


def test_whole_numbers_stay_whole_and_lists_can_be_chosen() -> None:
    space = _space(
        {
            "lora.r": Range(low=4, high=16),
            "train.learning_rate": Range(low=1e-4, high=1e-2, log=True),
            "lora.target_modules": Choices(choices=("all-linear", ["q_proj", "v_proj"])),
        }
    )
    drawn = [_decoded({name: domain.sample() for name, domain in space.items()}) for _ in range(50)]
    assert all(isinstance(d["lora.r"], int) and 4 <= d["lora.r"] <= 16 for d in drawn)
    assert {d["lora.r"] for d in drawn} >= {5, 10}
    assert all(1e-4 <= d["train.learning_rate"] <= 1e-2 for d in drawn)
    assert {str(d["lora.target_modules"]) for d in drawn} == {
        "all-linear",
        "['q_proj', 'v_proj']",
    }
