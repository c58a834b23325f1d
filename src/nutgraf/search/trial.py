"""What a search leaves: its trials, and which of them to train with."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nutgraf.core.errors import Failure, one_line
from nutgraf.core.files import write_text
from nutgraf.core.units import perplexity

# In a trial's folder: where it stood when its time was up, and its weights at each evaluation.
HANG, EVALUATED = "hang.txt", "evaluated"

_KEPT = ("values", "history", "seconds", "row_nll", "row_tokens")


@dataclass
class Trial:
    """One trial as the table shows it: settings by dotted name, and how far it came."""

    number: int
    values: dict[str, Any]
    status: str = "unfinished"  # then completed, stopped (by ASHA) or error
    history: list[tuple[int, float]] = field(default_factory=list)  # examples, validation loss
    seconds: float = 0.0
    error: str = ""
    row_nll: list[float] = field(default_factory=list)  # per validation row, at its best evaluation
    row_tokens: list[int] = field(default_factory=list)
    rouge: dict[str, float] = field(default_factory=dict)
    proposed_by: str = "random"  # or tpe

    @property
    def completed(self) -> bool:
        """Whether it was trained to its end; the search may have stopped it before all the same."""
        return bool(self.row_nll)

    def write(self, folder: Path) -> None:
        """Keep in `folder` what has been measured, in one atomic step."""
        kept = {name: getattr(self, name) for name in _KEPT}
        write_text(folder / "trial.json", json.dumps(kept))

    @classmethod
    def read(cls, folder: Path) -> Trial | None:
        """What `write` has kept in the trial's folder, which has its number; None if nothing.

        Raises Failure where the file is not as `write` leaves it.
        """
        file = folder / "trial.json"
        if not file.exists():
            return None
        try:
            trial = cls(int(folder.name), **json.loads(file.read_text(encoding="utf-8")))
            trial.history = [(int(examples), float(loss)) for examples, loss in trial.history]
        except (ValueError, TypeError) as error:  # not JSON, not UTF-8, or other fields
            reason = one_line(str(error), 100)
            raise Failure(
                f"{file} is damaged ({reason}): delete that folder, and its trial starts over"
            ) from error
        return trial

    @property
    def loss(self) -> float | None:
        """Lowest validation loss, nats per summary token; None before the first evaluation."""
        return min((loss for _, loss in self.history), default=None)

    def record(self, chosen: bool) -> dict[str, Any]:
        """A row of trials.csv."""
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
    """Return where a trial's folder has its best weights up to the evaluation after `examples`.

    A trial that is stopped may have been trained beyond the evaluation at which it is; what counts
    are the weights it had there, so that its ROUGE does not depend on when it heard of it.
    """
    return folder / EVALUATED / f"{examples}.safetensors"


def describe_proposals(proposed_by: Sequence[str]) -> str:
    """Return how many trials were drawn at random and how many TPE proposed, as a phrase."""
    total, by_tpe = len(proposed_by), list(proposed_by).count("tpe")
    if not by_tpe:
        return "1 trial, drawn at random" if total == 1 else f"{total} trials, all drawn at random"
    return f"{total} trials: {total - by_tpe} drawn at random, then {by_tpe} proposed by TPE"


def by_loss(trials: Sequence[Trial]) -> list[Trial]:
    """The completed trials, lowest validation loss first."""
    completed = [(t.loss, t.number, t) for t in trials if t.status == "completed"]
    return [trial for _, _, trial in sorted(completed)]


def choose_trial(trials: Sequence[Trial], finalists: int) -> Trial:
    """The trial to train: lowest validation loss, then highest ROUGE-Lsum within the noise.

    ROUGE decides among the `finalists` of lowest loss.

    A completed trial is within the noise of the lowest loss where the mean of its losses' paired
    differences, row by row of the same validation rows, is at most one standard error of that
    mean. Trials without ROUGE do not win over the lowest loss.
    """
    completed = by_loss(trials)
    lowest = completed[0]
    close = [t for t in completed[:finalists] if t.rouge and _within_noise(t, lowest)]
    return max(close, key=lambda t: t.rouge["rougeLsum"], default=lowest)


def _within_noise(trial: Trial, lowest: Trial) -> bool:
    tokens = sum(trial.row_tokens) / len(trial.row_tokens)
    gaps = [(a - b) / tokens for a, b in zip(trial.row_nll, lowest.row_nll, strict=True)]
    n, mean = len(gaps), sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / max(1, n - 1)
    return mean <= math.sqrt(variance / n)
