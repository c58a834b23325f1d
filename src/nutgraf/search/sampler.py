"""Propose the settings of trials: the first at random, later ones by Optuna's TPE.

TPE: Bergstra et al. 2011. A proposal depends on the seed, its number and the results of the trials
before it, never on when those arrive.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from nutgraf.config import LoraSettings, SearchConfig, TrainConfig
from nutgraf.config.types import Choices, Range
from nutgraf.search.trial import Trial

optuna.logging.set_verbosity(optuna.logging.WARNING)


# Results that TPE needs before it proposes anything (docs/log.md). The same for any number of
# trials, so that a search goes on as it would have if it had had more from the start.
STARTUP = 4


class Sampler:
    """Proposals 1, 2, 3 …, each based on the results that are `needed` for it.

    `proposed_by` has for each proposal so far `random` or `tpe`.
    """

    def __init__(self, search: SearchConfig, concurrent: int | None = None) -> None:
        self.space = {name: _distribution(name, d) for name, d in search.space.items()}
        self.concurrent = concurrent or search.concurrent
        sampler = optuna.samplers.TPESampler(seed=search.seed, n_startup_trials=STARTUP)
        self.study = optuna.create_study(sampler=sampler)
        self.proposals: list[optuna.Trial] = []
        self.proposed_by: list[str] = []
        self._reported = 0  # proposals whose results the study has
        self._successes = 0  # of these, completed or stopped: what TPE learns from

    @property
    def needed(self) -> range:
        """Return which proposals, from 1 on, must be settled before the next one.

        The last 2 * (`concurrent` - 1) before it do not count: they may still run, or have ended
        out of turn. Waiting for half of these would leave processes idle (docs/log.md).
        """
        last = len(self.proposals) - 2 * (self.concurrent - 1)
        return range(1, last + 1) if last >= STARTUP else range(0)

    def next(self, trials: Mapping[int, Trial]) -> dict[str, Any]:
        """Return the next settings, by dotted name; `trials` holds all that are `needed`."""
        for number in self.needed[self._reported :]:
            self._report(number, trials[number])
        self.proposed_by.append("tpe" if self._successes >= STARTUP else "random")
        self.proposals.append(self.study.ask(self.space))
        values = self.proposals[-1].params
        return {k: json.loads(v) if isinstance(v, str) else v for k, v in values.items()}

    def _report(self, number: int, trial: Trial) -> None:
        proposal = self.proposals[number - 1]
        known = trial.status == "completed" or (trial.status == "stopped" and trial.history)
        if trial.status == "completed":
            self.study.tell(proposal, trial.loss)
        elif known:
            for examples, loss in trial.history:
                proposal.report(loss, examples)
            self.study.tell(proposal, state=TrialState.PRUNED)
        else:
            self.study.tell(proposal, state=TrialState.FAIL)
        self._successes += bool(known)
        self._reported = number


def _distribution(name: str, domain: Range | Choices) -> BaseDistribution:
    if isinstance(domain, Choices):
        # As JSON text, since Optuna's categories are scalars and a choice may be a list of layers.
        return CategoricalDistribution([json.dumps(choice) for choice in domain.choices])
    section, field = name.split(".")
    fields = (TrainConfig if section == "train" else LoraSettings).model_fields
    if fields[field].annotation is int:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)
