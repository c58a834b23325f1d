"""Describe the trials of a search: their records, their training jobs, and which one wins."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from nutgraf.config.load import with_overrides
from nutgraf.core.errors import Failure, one_line
from nutgraf.core.files import write_text
from nutgraf.core.units import perplexity
from nutgraf.training.curves import curves_path, record_path, samples_path

if TYPE_CHECKING:
    from nutgraf.config import Config
    from nutgraf.data.examples import Example
    from nutgraf.training.history import Evaluation
    from nutgraf.training.job import TrainingJob

# In a trial's folder: its adapter, the traceback at its time limit, its best weights at each
# evaluation, its curves, what it wrote at its evaluations, and the record of its training once that
# is finished.
ADAPTER, HANG, EVALUATED = "adapter", "hang.txt", "evaluated"
CURVES, SAMPLES = curves_path(Path(ADAPTER)).name, samples_path(Path(ADAPTER)).name
TRAINED = record_path(Path(ADAPTER)).name

_RECORDED = ("values", "history", "seconds", "row_nll", "row_tokens")  # the keys of trial.json


@dataclass
class Trial:
    """One trial as the table shows it: settings by dotted name, and its results so far."""

    number: int
    values: dict[str, Any]
    status: str = "unfinished"  # then completed, stopped (early) or error
    history: list[tuple[int, float]] = field(default_factory=list)  # examples, validation loss
    seconds: float = 0.0
    error: str = ""
    row_nll: list[float] = field(default_factory=list)  # per validation row, at its best evaluation
    row_tokens: list[int] = field(default_factory=list)
    rouge: dict[str, float] = field(default_factory=dict)
    proposed_by: str = "random"  # or `tpe`, or `person`

    @property
    def completed(self) -> bool:
        """Return whether it was trained to its end, even if the search stops it before."""
        return bool(self.row_nll)

    def write(self, folder: Path) -> None:
        """Write trial.json into `folder`, in one atomic step."""
        record = {name: getattr(self, name) for name in _RECORDED}
        write_text(folder / "trial.json", json.dumps(record))

    @classmethod
    def read(cls, folder: Path) -> Trial | None:
        """Return the trial in `folder`, which has its number; None if there is none.

        Raises:
            Failure: if trial.json is damaged.
        """
        file = folder / "trial.json"
        if not file.exists():
            return None
        try:
            trial = cls(int(folder.name), **json.loads(file.read_text(encoding="utf-8")))
            trial.history = [(int(examples), float(loss)) for examples, loss in trial.history]
        except (ValueError, TypeError) as error:  # not JSON, not UTF-8, or other fields
            raise Failure(
                f"{file} is damaged ({one_line(str(error), 100)}): delete that folder, and its "
                "trial starts over"
            ) from error
        return trial

    @property
    def loss(self) -> float | None:
        """Return the lowest validation loss in nats per summary token, None if there is none."""
        return min((loss for _, loss in self.history), default=None)

    def record(self, chosen: bool) -> dict[str, Any]:
        """Return its row of trials.csv."""
        loss = self.loss
        return {
            "trial": self.number,
            "status": self.status,
            "error": self.error,
            **self.values,
            "examples": self.history[-1][0] if self.history else 0,
            "validation_loss": loss,
            "perplexity": None if loss is None else perplexity(loss, 1),
            **{name: self.rouge.get(name) for name in ("rouge1", "rouge2", "rougeL", "rougeLsum")},
            "seconds": round(self.seconds, 2),
            "chosen": chosen,
            "proposed_by": self.proposed_by,
        }


def evaluated_weights(folder: Path, examples: int) -> Path:
    """Return the file of a trial's best weights up to the evaluation after `examples`.

    A trial may be trained beyond the evaluation at which it is stopped. What counts are its weights
    at that evaluation, so that its ROUGE does not depend on when its process was told to stop.
    """
    return folder / EVALUATED / f"{examples}.safetensors"


@dataclass(frozen=True)
class SearchInputs:
    """The configuration of a search, and the rows on which its trials are trained and evaluated."""

    config: Config
    train: Sequence[Example]
    validation: Sequence[Example]

    def job(
        self,
        overrides: Mapping[str, Any],
        folder: Path,
        on_eval: Callable[[Evaluation], None],
        on_step: Callable[[int], None] | None = None,
    ) -> TrainingJob:
        """Return the training of the trial in `folder`, which copies its weights to `evaluated/`.

        They are copied at each evaluation, before `on_eval` is called.
        """
        from nutgraf.training.checkpoints import copy_best
        from nutgraf.training.job import TrainingJob

        adapter = folder / ADAPTER

        def copy_and_report(evaluation: Evaluation) -> None:
            copy_best(adapter, evaluation.step, evaluated_weights(folder, evaluation.examples))
            on_eval(evaluation)

        return TrainingJob(
            with_overrides(self.config, overrides),
            self.train,
            self.validation,
            adapter,
            title=f"trial {folder.name}",
            on_eval=copy_and_report,
            on_step=on_step,
        )


@contextlib.contextmanager
def time_limit(seconds: float, file: IO[str]) -> Iterator[None]:
    """End the process, with a traceback in `file`, if the block takes longer.

    Code that hangs outside Python runs neither exceptions nor signal handlers.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=file)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def describe_proposals(proposed_by: Sequence[str]) -> str:
    """Return how many trials were drawn at random, proposed by TPE, and added, as a phrase."""
    by = list(proposed_by)
    total, by_tpe, by_people = len(by), by.count("tpe"), by.count("person")
    if not by_tpe and not by_people:
        return "1 trial, drawn at random" if total == 1 else f"{total} trials, all drawn at random"
    drawn = f"{total} trials: {total - by_tpe - by_people} drawn at random"
    drawn += f", then {by_tpe} proposed by TPE" if by_tpe else ""
    return drawn + (f", {by_people} added by a person" if by_people else "")


def choose_trial(trials: Sequence[Trial], finalists: int) -> Trial:
    """Return the trial to train with: of the best by loss the one with the highest ROUGE-Lsum.

    Candidates are the `finalists` completed trials of lowest validation loss whose loss is within
    the noise of the lowest: the mean of the paired differences of their losses, row by row of the
    same validation rows, is at most one standard error of that mean. Without ROUGE the lowest loss
    wins.
    """
    completed = [(t.loss, t.number, t) for t in trials if t.status == "completed"]
    best = [trial for _, _, trial in sorted(completed)][:finalists]
    close = [trial for trial in best if trial.rouge and _within_noise(trial, best[0])]
    return max(close, key=lambda trial: trial.rouge["rougeLsum"], default=best[0])


def _within_noise(trial: Trial, lowest: Trial) -> bool:
    tokens = sum(trial.row_tokens) / len(trial.row_tokens)
    gaps = [(a - b) / tokens for a, b in zip(trial.row_nll, lowest.row_nll, strict=True)]
    n, mean = len(gaps), sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / max(1, n - 1)
    return mean <= math.sqrt(variance / n)
