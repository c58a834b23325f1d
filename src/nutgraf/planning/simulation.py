"""Simulate searches, to predict how long one takes with trials that are stopped early."""

from __future__ import annotations

import random

from nutgraf.config import Config
from nutgraf.search.halving import Halving, TrialProgress
from nutgraf.training.budget import evaluation_steps

SIMULATED_TRIALS = 400  # in all simulated searches


def simulate_searches(config: Config) -> tuple[float, float, float]:
    """Return the length of a search in whole trainings: median, 10th and 90th percentile.

    Simulates searches, with a fixed seed, in which trials of random quality are stopped early.
    """
    evaluations, trials = len(evaluation_steps(config.train)), config.search.trials
    rng = random.Random(0)
    lengths = []
    for _ in range(max(5, SIMULATED_TRIALS // trials)):
        losses = list(range(trials))
        rng.shuffle(losses)
        lengths.append(_simulate_search(losses, config, evaluations) / evaluations)
    lengths.sort()
    median, p10, p90 = (lengths[round(q * (len(lengths) - 1))] for q in (0.5, 0.1, 0.9))
    return median, p10, p90


def _simulate_search(losses: list[int], config: Config, evaluations: int) -> int:
    """Return the ticks, of one evaluation each, of a search in which each trial keeps its loss."""
    search = config.search
    parallel = min(search.concurrent, search.trials)
    halving = Halving(search.grace_evaluations, search.reduction_factor, parallel)
    progress: dict[int, TrialProgress] = {}
    running: list[int] = []
    ticks = 0
    while len(progress) < len(losses) or running:
        while len(progress) < len(losses) and len(running) < search.parallel_trials:
            running.append(len(progress) + 1)
            progress[running[-1]] = TrialProgress((), evaluations, False)
        ticks += 1
        for number in running:
            reported = (*progress[number].losses, losses[number - 1])
            progress[number] = TrialProgress(reported, evaluations, len(reported) == evaluations)
        verdicts = halving.judge(progress)
        running = [n for n in running if verdicts[n].stop is None and not progress[n].ended]
    return ticks
