"""The settings that a search tries: the first at random, later ones by Optuna's TPE.

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


def startup_trials(trials: int) -> int:
    """Return how many results TPE needs before it proposes anything in a search of `trials`.

    Half of the trials, from 4 up to the 10 of Optuna's default (docs/log.md, 2026-11-28). A search
    of four trials is therefore a random search.
    """
    return min(10, max(4, trials // 2))


class Sampler:
    """Proposals 1, 2, 3 …, each based on the results that are `needed` for it.

    `proposed_by` says of each proposal so far whether it was drawn at `random` or by `tpe`.
    """

    def __init__(self, search: SearchConfig) -> None:
        self.startup = startup_trials(search.trials)
        self.space = {name: _distribution(name, d) for name, d in search.space.items()}
        self.together = search.concurrent
        sampler = optuna.samplers.TPESampler(seed=search.seed, n_startup_trials=self.startup)
        self.study = optuna.create_study(sampler=sampler)
        self.asked: list[optuna.Trial] = []
        self.told = 0
        self.results = 0  # of those told, completed or stopped: what TPE learns from
        self.proposed_by: list[str] = []

    @property
    def needed(self) -> range:
        """Numbers of the trials that have to be settled before the next one is proposed.

        The last 2 * (`concurrent` - 1) before it do not count: they may still run, or have ended
        out of turn. Waiting for half of these would leave processes idle (docs/log.md).
        """
        last = len(self.asked) - 2 * (self.together - 1)
        return range(1, last + 1) if last >= self.startup else range(0)

    def next(self, trials: Mapping[int, Trial]) -> dict[str, Any]:
        """Settings for the next number, by dotted name; `trials` holds all that are `needed`."""
        for number in self.needed[self.told :]:
            self._tell(trials[number])
        self.proposed_by.append("tpe" if self.results >= self.startup else "random")
        self.asked.append(self.study.ask(self.space))
        values = self.asked[-1].params
        return {k: json.loads(v) if isinstance(v, str) else v for k, v in values.items()}

    def _tell(self, trial: Trial) -> None:
        asked = self.asked[trial.number - 1]
        if trial.status == "completed":
            self.study.tell(asked, trial.loss)
        elif trial.status == "stopped":
            for examples, loss in trial.history:
                asked.report(loss, examples)
            self.study.tell(asked, state=TrialState.PRUNED)
        else:
            self.study.tell(asked, state=TrialState.FAIL)
        self.results += trial.status in ("completed", "stopped")
        self.told = trial.number


def _distribution(name: str, domain: Range | Choices) -> BaseDistribution:
    if isinstance(domain, Choices):
        # As JSON text, since Optuna's categories are scalars and a choice may be a list of layers.
        return CategoricalDistribution([json.dumps(choice) for choice in domain.choices])
    section, field = name.split(".")
    fields = (TrainConfig if section == "train" else LoraSettings).model_fields
    if fields[field].annotation is int:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)
