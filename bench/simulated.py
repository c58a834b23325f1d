"""A study on many devices, simulated event by event: how long its stages take, and what is lost.

Which trials are stopped, and when the next one may be proposed, is decided by the project's own
rules (`halving`, `sampler`). How losses fall, and how unlike the pieces of work are, is assumed.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from devices import Device

from nutgraf.config import Config, SearchConfig
from nutgraf.modeling.dims import EVAL_BATCH_SIZE
from nutgraf.search.halving import Halving, TrialProgress, Verdict
from nutgraf.search.sampler import STARTUP
from nutgraf.training.budget import effective_batch_size, evaluation_steps, split_batch, total_steps

# How losses fall: final loss and early handicap of a trial are drawn apart, so that the best one is
# not always ahead. An assumption: only the ranks at the rungs matter.
FINAL, HANDICAP = 1.0, 1.0  # standard deviations
DRAWS = 2000  # of a step's slowest process


@dataclass(frozen=True)
class Searched:
    seconds: float
    """From the first to the last trial."""
    busy: float
    """Device-seconds of all trials."""
    waiting: float
    """Device-seconds without a trial before the last one began: its settings needed results."""
    past: float
    """Of these, what trials did past the rung at which they turned out to be stopped."""
    stops: dict[int, int | None]
    """The evaluation after which each trial was stopped, None where it was completed."""
    checkpoints: int


def curves(trials: int, evaluations: int, draw: random.Random) -> list[list[float]]:
    """Losses of each trial at each evaluation."""
    drawn = [(draw.gauss(0, FINAL), draw.gauss(0, HANDICAP)) for _ in range(trials)]
    return [
        [final + handicap / math.sqrt(k) for k in range(1, evaluations + 1)]
        for final, handicap in drawn
    ]


def unlike(spread: float, draw: random.Random) -> float:
    """How many times the average a piece of work takes."""
    return draw.lognormvariate(-(spread**2) / 2, spread)


def needed(search: SearchConfig, asked: int) -> range:
    """Trials that have to be settled before the next one is proposed, as `Sampler.needed`."""
    last = asked - 2 * (search.concurrent - 1)
    return range(1, last + 1) if last >= STARTUP else range(0)


def pieces(config: Config, device: Device, draw: random.Random) -> list[float]:
    """Seconds of one training from each evaluation to the next."""
    ends = [0, *evaluation_steps(config.train)]
    looked = config.train.eval_examples * device.looked
    return [
        ((end - begin) * effective_batch_size(config.train) * device.row + looked)
        * unlike(device.spread, draw)
        + device.saving
        for begin, end in itertools.pairwise(ends)
    ]


def search(config: Config, device: Device, luck: int) -> Searched:
    """The search, `config.search.concurrent` devices with a trial each."""
    draw, settings = random.Random(luck), config.search
    takes = [pieces(config, device, draw) for _ in range(settings.trials)]
    evaluations = len(takes[0])
    losses = curves(settings.trials, evaluations, draw)
    together = min(settings.concurrent, settings.trials)
    rule = Halving(settings.grace_evaluations, settings.reduction_factor, together)
    progress: dict[int, TrialProgress] = {}
    verdicts: dict[int, Verdict] = {}
    running: dict[int, float] = {}  # since when
    spent: dict[int, float] = {}
    reports: list[tuple[float, int]] = []
    now = waiting = 0.0
    checkpoints = 0
    while len(progress) < settings.trials or running:
        while (
            len(progress) < settings.trials
            and len(running) < settings.concurrent
            and all(verdicts[n].settled for n in needed(settings, len(progress)))
        ):
            number = len(progress) + 1
            progress[number], verdicts[number] = (
                TrialProgress((), evaluations, False),
                Verdict(None, False),
            )
            running[number] = now
            heapq.heappush(reports, (now + takes[number - 1][0], number))
        when, number = heapq.heappop(reports)
        if number not in running:
            continue  # stopped in the middle of this piece
        if len(progress) < settings.trials:
            waiting += (settings.concurrent - len(running)) * (when - now)
        now, known = when, len(progress[number].losses) + 1
        checkpoints += 1
        ended = known == evaluations
        progress[number] = TrialProgress(tuple(losses[number - 1][:known]), evaluations, ended)
        if not ended:
            heapq.heappush(reports, (now + takes[number - 1][known], number))
        if ended or _is_rung(known, settings):
            verdicts = rule.judge(progress)
        for n in [n for n in running if progress[n].ended or verdicts[n].stop is not None]:
            spent[n] = now - running.pop(n)
    stops = {n: verdict.stop for n, verdict in verdicts.items()}
    counted = sum(sum(takes[n - 1][:stop]) for n, stop in stops.items())
    busy = sum(spent.values())
    return Searched(now, busy, waiting, max(0.0, busy - counted), stops, checkpoints)


def _is_rung(known: int, settings: SearchConfig) -> bool:
    rung = settings.grace_evaluations
    while rung < known:
        rung *= settings.reduction_factor
    return rung == known


def training(config: Config, device: Device, processes: int, network: float) -> float:
    """Seconds of one training by so many processes that exchange gradients each step, at `network`
    bytes a second, without their start."""
    micro, accumulated = split_batch(config.train, processes)
    waited = slowest(processes, device.spread)
    exchanged = 2 * (processes - 1) / processes * 4 * device.adapter / network
    step = micro * accumulated * device.row * waited + exchanged
    batches = math.ceil(config.train.eval_examples / EVAL_BATCH_SIZE)
    rows = min(config.train.eval_examples, math.ceil(batches / processes) * EVAL_BATCH_SIZE)
    evaluations = len(evaluation_steps(config.train))
    return total_steps(config.train) * step + evaluations * (
        rows * device.looked * waited + device.saving
    )


@cache
def slowest(processes: int, spread: float) -> float:
    """How many times the average the slowest of so many like pieces takes, in the mean."""
    if processes == 1:
        return 1.0
    draw = random.Random(0)
    return sum(max(unlike(spread, draw) for _ in range(processes)) for _ in range(DRAWS)) / DRAWS


def listed(takes: Sequence[float], devices: int) -> float:
    """Seconds until pieces of work are done that free devices take one after the other."""
    free = [0.0] * min(devices, len(takes))
    for took in takes:
        heapq.heapreplace(free, free[0] + took)
    return max(free)


def writing(config: Config, device: Device, devices: int, articles: int, luck: int) -> float:
    """Seconds in which one model writes the summaries of so many articles, without a start."""
    draw, size = random.Random(luck), config.generate.batch_size
    sizes = [min(size, articles - start) for start in range(0, articles, size)]
    return listed([n * device.written * unlike(device.spread, draw) for n in sizes], devices)
