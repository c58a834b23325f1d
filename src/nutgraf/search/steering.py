"""Decide what a person's stopping, adding and continuing of trials does to a search.

What a person does to one trial leaves the verdicts on the others and the proposals as they are, but
for losses that never come: to them a trial ends where it was first stopped, whether it goes on or
not, and an added one is not there. The rule no longer stops a trial that a person has added or let
go on.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nutgraf.config import Config
from nutgraf.config.load import with_overrides
from nutgraf.core.errors import UserError, did_you_mean
from nutgraf.search.halving import Halving, TrialProgress, Verdict
from nutgraf.search.ledger import Request, Steer
from nutgraf.search.trial import Trial
from nutgraf.training.budget import (
    effective_batch_size,
    evaluation_steps,
    max_examples_seen,
    total_examples,
)

Verdicts = dict[int, Verdict]


@dataclass(frozen=True)
class Steering:
    """What the lines of a ledger do to verdicts."""

    steers: Sequence[Steer] = ()

    @property
    def added(self) -> dict[int, Mapping[str, Any]]:
        """Return the settings of the trials that people have added, by number."""
        done = [steer for steer in self.steers if steer.do == "add" and not steer.refused]
        return {steer.trial: steer.values for steer in done}

    def proposed(self) -> Iterator[int]:
        """Yield the numbers of the trials that the search proposes itself, without end."""
        added = self.added
        return (number for number in itertools.count(1) if number not in added)

    def of(self, number: int, values: Mapping[str, Any]) -> list[Steer]:
        """Return the steers of a trial, unless they were of one with other settings."""
        mine = (steer for steer in self.steers if steer.trial == number and not steer.refused)
        return [steer for steer in mine if steer.values == values]

    def judge(
        self,
        rule: Halving,
        progress: Mapping[int, TrialProgress],
        values: Mapping[int, Mapping[str, Any]],
    ) -> tuple[Verdicts, Verdicts]:
        """Return the verdicts on proposed trials that decide about others, and those that hold.

        Both by number. The first are what other verdicts and proposals depend on. The second are
        what is done, and what the table shows, of added trials too. `values` are the settings.
        """
        if not self.steers:
            verdicts = rule.judge(progress)
            return verdicts, verdicts
        steers = {number: self.of(number, values[number]) for number in progress}
        added = self.added
        numbers = [number for number in sorted(progress) if number not in added]
        ends = {number: _end(steers[number]) for number in numbers}
        ruled = rule.judge({i: _cut(progress[n], ends[n]) for i, n in enumerate(numbers, 1)})
        first = {n: _until(ruled[i], progress[n], ends[n]) for i, n in enumerate(numbers, 1)}
        held = {}
        for number, trial in progress.items():
            own = steers[number]
            if number in first and all(steer.do == "stop" for steer in own):
                held[number] = first[number]
            else:  # nothing but its own end is waited for
                until = own[-1].until if own else None
                held[number] = _until(Verdict(None, trial.ended), trial, until, settled=True)
        return first, held


def _end(steers: Sequence[Steer]) -> int | None:
    """Return the evaluation after which the others hear no more of a trial; None for its last."""
    if not steers:
        return None
    return (steers[0] if steers[0].do == "stop" else steers[-1]).until


def _cut(trial: TrialProgress, until: int | None) -> TrialProgress:
    """Return the progress of a trial that ends at the evaluation `until`, if that is not None."""
    if until is None:
        return trial
    reached = len(trial.losses) >= until
    return replace(trial, losses=trial.losses[:until], ended=trial.ended or reached)


def _until(
    verdict: Verdict, trial: TrialProgress, until: int | None, settled: bool = False
) -> Verdict:
    """Return the verdict on a trial that a person ends at `until`, unless the rule did before."""
    if until is None or verdict.stop is not None or len(trial.losses) < until:
        return verdict
    return Verdict(until, settled or verdict.settled)


def decide(
    name: str,
    request: Request | None,
    config: Config,
    trials: Mapping[int, Trial],
    verdicts: Mapping[int, Verdict],
    failed: Container[int],
    new: int,
) -> Steer:
    """Return what is to be done with a request, or why it is refused, as a line of the ledger.

    Args:
        name: The id of the request.
        request: What is asked for; None if that cannot be read.
        config: The search's configuration.
        trials: All trials by number.
        verdicts: The verdicts on them that hold.
        failed: The numbers of those that an error has ended.
        new: The number of a trial that is added.
    """
    now = round(time.time(), 3)
    if request is None:
        return Steer(name, now, "nothing", 0, {}, refused="a file that is no request")
    steer = Steer(name, now, request.do, request.trial or 0, {})
    try:
        if request.do == "add":
            values = trial_values(config, request.values)
            examples = total_examples(with_overrides(config, values).train)
            return replace(steer, trial=new, values=values, until_examples=examples)
        if (trial := trials.get(steer.trial)) is None:
            raise UserError(f"there is no trial {steer.trial} yet")
        steer, verdict = replace(steer, values=trial.values), verdicts[trial.number]
        marks = _marks(config, trial)
        if request.do == "continue":
            return _continue(steer, trial, verdict, marks, request.examples or marks[-1])
        last = len(trial.history)
        over = trial.completed or trial.number in failed or last == len(marks)
        if over or verdict.stop is not None:
            raise UserError(f"trial {trial.number} has ended already")
        seen = trial.history[-1][0] if trial.history else 0
        return replace(steer, evaluation=last, examples=seen, until=last, until_examples=seen)
    except UserError as error:
        return replace(steer, refused=str(error))


def _continue(
    steer: Steer, trial: Trial, verdict: Verdict, marks: Sequence[int], examples: int
) -> Steer:
    """Return the line for a trial that goes on until the first evaluation after `examples`."""
    if verdict.stop is None:
        raise UserError(f"trial {trial.number} is not stopped, and only a stopped one goes on")
    seen = trial.history[verdict.stop - 1][0] if verdict.stop else 0
    if not seen < examples <= marks[-1]:
        raise UserError(
            f"trial {trial.number} has seen {seen:,} articles and its training ends at "
            f"{marks[-1]:,}: it cannot go on to {examples:,}"
        )
    last = next(evaluation for evaluation, mark in enumerate(marks, 1) if mark >= examples)
    return replace(
        steer,
        evaluation=verdict.stop,
        examples=seen,
        until=last if last < len(marks) else None,
        until_examples=marks[last - 1],
    )


def _marks(config: Config, trial: Trial) -> list[int]:
    """Return the examples that a trial has seen at each evaluation of a whole training."""
    train = with_overrides(config, trial.values).train
    return [step * effective_batch_size(train) for step in evaluation_steps(train)]


def trial_values(config: Config, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the searched settings of an added trial: `values`, and the study's for the others.

    Raises UserError if one of `values` is not searched or cannot be.
    """
    space = config.search.space
    for name in values:
        if name not in space:
            known = f": search.space has {', '.join(space)}"
            raise UserError(f"{name} is not searched{did_you_mean(name, space) or known}")
    own = with_overrides(config, values)
    if total_examples(own.train) > max_examples_seen(config.train, space):
        raise UserError(
            f"a step of {own.train.micro_batch_size} × {own.train.gradient_accumulation_steps} "
            "articles is larger than the search has rows for: lower train.micro_batch_size or "
            "train.gradient_accumulation_steps"
        )
    all_values = own.model_dump(mode="json")
    fields = {name: name.split(".") for name in space}
    return {name: all_values[section][field] for name, (section, field) in fields.items()}
