"""A study of the full CNN/DailyMail on 1, 8 and 64 devices, on paper: hours, cost, what is lost.

Speeds are those that a run folder holds: what its plan measured (`search/plan.json`), times as much
longer as its trainings and summaries then took. A device is what one trial of that study ran on.
For other devices a configuration is given with speeds of the reader's own. What is done with them
is simulated (`bench/simulated.py`); what is assumed is printed with the result.

    python bench/scale.py runs/pocket [--devices 1 8 64] [--price 0.5]
    python bench/scale.py configs/tinyllama-cnndm.yaml --training 2000 --reading 5000 \\
        --summaries 2.7 --adapter 12600000
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import simulated
from devices import SAVED, Device, of_reader, of_run, row_bytes
from simulated import Searched

from nutgraf.config import Config, load
from nutgraf.config.systems import EXTRACTIVE_SYSTEMS, model_systems
from nutgraf.planning import duration, speeds
from nutgraf.training.budget import effective_batch_size

# CNN/DailyMail 3.0.0, and its tokens with TinyLlama's tokenizer (configs/tinyllama-cnndm.yaml).
TRAIN, VALIDATION, TEST = 287_113, 13_368, 11_490
ROW, SUMMARY = 825, 78
PREPARING = 0.002  # seconds an article (docs/benchmarks.md, Growth: 10,000 articles of 128 tokens)
DAY = 86_400


@dataclass(frozen=True)
class Study:
    """What came of one simulated study; seconds, and device-seconds where it says so."""

    devices: int
    search: Searched
    seconds: dict[str, float]
    useful: dict[str, float]
    """Device-seconds that one device would take for what counts."""
    starts: float
    """Seconds of all devices in which processes start."""
    processes: int
    """Of the baseline's training; the best is a trial of the search."""

    @property
    def together(self) -> float:
        return sum(self.seconds.values())

    def lost(self) -> dict[str, float]:
        """Device-seconds by what became of them; all together are those of all devices."""
        every = {stage: self.devices * seconds for stage, seconds in self.seconds.items()}
        search = self.devices * self.search.seconds
        return {
            "what counts": sum(self.useful.values()),
            "trials past their rung": self.search.past,
            "waiting for settings": self.search.waiting,
            "the last trials": search - self.search.busy - self.search.waiting,
            "the training": every["train"] - self.devices * self.starts - self.useful["train"],
            "the last summaries": every["generate"]
            - self.devices * self.starts
            - self.useful["generate"],
            "starting": every["search"] - search + 2 * self.devices * self.starts,
            "work of one process": every["one process"],
        }


def study(config: Config, device: Device, devices: int, options: Any, luck: int) -> Study:
    config = load.with_overrides(config, {"search.concurrent": devices})
    simulation = simulated.search(config, device, luck)
    alone = simulated.training(config, device, 1, options.network)
    processes = min(devices, effective_batch_size(config.train))
    shared = simulated.training(config, device, processes, options.network)
    models, n = len(model_systems(config)), options.test
    starts = device.starting + (models - 1) * device.loading
    written = sum(simulated.writing(config, device, devices, n, luck + i) for i in range(models))
    scored = scoring(models, n)
    return Study(
        devices,
        simulation,
        {
            "search": duration.RAY_SECONDS + device.starting + simulation.seconds,
            "train": min(alone, shared) + starts,
            "generate": written + starts,
            "score": scored / devices,
            "one process": one_process(config, options),
        },
        {
            "search": simulation.busy - simulation.past,
            "train": alone,
            "generate": models * n * device.written,
            "score": scored,
        },
        starts,
        processes if shared < alone else 1,
    )


def scoring(models: int, articles: int) -> float:
    """Seconds of one core, for the extracts and for all systems' ROUGE and indicators."""
    systems = len(EXTRACTIVE_SYSTEMS) + models
    return articles * (
        len(EXTRACTIVE_SYSTEMS) / duration.EXTRACT_RATE
        + 1 / duration.ARTICLE_RATE
        + systems * (1 / speeds.ROUGE_RATE + 1 / duration.INDICATOR_RATE)
    )


def one_process(config: Config, options: Any) -> float:
    """Seconds of what no further device makes faster: prepare, the bootstraps, the report."""
    systems = len(EXTRACTIVE_SYSTEMS) + len(model_systems(config))
    drawn = (
        (4 * systems + 3 * (systems - 2))
        * config.score.resamples
        * options.test
        / duration.BOOTSTRAP_RATE
    )
    read = (options.articles + VALIDATION + options.test) * options.preparing
    return (
        read
        + duration.COMPARISON_SECONDS
        + options.test * (1 / duration.ARTICLE_RATE + 1 / duration.INDICATOR_RATE)
        + drawn
        + duration.REPORT_SECONDS
    )


def main() -> None:
    options = _options()
    path = Path(options.source)
    config = load.load_config(path / "config.yaml" if path.is_dir() else path)
    config = load.with_overrides(config, budget(config, options))
    if path.is_dir():
        device, origin = of_run(path, config, options.row, options.summary)
    else:
        device, origin = of_reader(options)
    if options.spread is not None:
        device = replace(device, spread=options.spread)
        origin += f"; spread set to {options.spread:g}"
    studies = {
        devices: sorted(
            (study(config, device, devices, options, luck) for luck in range(options.draws)),
            key=lambda one: one.together,
        )
        for devices in options.devices
    }
    tell(config, device, origin, studies, options)


def budget(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    """Settings in which the simulated study differs from the configuration."""
    return {
        "train.max_examples": options.articles,
        "train.max_steps": None,
        "train.eval_every": math.ceil(options.articles / options.evaluations),
        "search.trials": options.trials,
        "train.rounds": 0,
    }


def tell(
    config: Config,
    device: Device,
    origin: str,
    by_devices: dict[int, list[Study]],
    options: argparse.Namespace,
) -> None:
    usual = {devices: studies[len(studies) // 2] for devices, studies in by_devices.items()}
    print(f"\nspeeds: {origin}")
    print(
        f"a device: {3600 / device.row:,.0f} articles an hour in training, "
        f"{3600 / device.written:,.0f} summaries an hour; a trial alone "
        f"{simulated.training(config, device, 1, 1) / 3600:,.1f} h"
    )
    print(
        f"study: {options.articles:,} training articles of {options.row} tokens, {options.trials} "
        f"trials of {options.evaluations} evaluations, halving by "
        f"{config.search.reduction_factor}, {options.test:,} test articles; median of "
        f"{options.draws} draws\n"
    )
    table(usual, options.price)
    print("\nshare of all device-hours, %")
    for what in next(iter(usual.values())).lost():
        cells = (100 * one.lost()[what] / (n * one.together) for n, one in usual.items())
        print(f"{what:<26}" + "".join(f"{max(0.0, cell):9.1f}" for cell in cells))
    for devices, studies in by_devices.items():
        print(f"\n{devices} device{'s' if devices > 1 else ''}")
        for line in sentences(config, device, studies, options):
            print(f"- {line}")
    print()
    for line in served(device, options):
        print(f"- {line}")


def table(usual: dict[int, Study], price: float | None) -> None:
    print(f"{'':<26}" + "".join(f"{n:>9}" for n in usual) + "  devices")
    for stage in next(iter(usual.values())).seconds:
        cells = (one.seconds[stage] / 3600 for one in usual.values())
        print(f"{stage:<26}" + "".join(f"{cell:9,.1f}" for cell in cells) + "  h")
    hours = {n: one.together / 3600 for n, one in usual.items()}
    print(f"{'together':<26}" + "".join(f"{cell:9,.1f}" for cell in hours.values()) + "  h")
    held = {n: n * cell for n, cell in hours.items()}
    print(f"{'device-hours':<26}" + "".join(f"{cell:9,.0f}" for cell in held.values()))
    if price is not None:
        cells = (price * cell for cell in held.values())
        print(
            f"{'cost':<26}" + "".join(f"{cell:9,.0f}" for cell in cells) + f"  at {price:g} an hour"
        )


def sentences(
    config: Config, device: Device, studies: list[Study], options: argparse.Namespace
) -> list[str]:
    """What becomes a bottleneck with so many devices, a sentence each."""
    one = studies[len(studies) // 2]
    search, n = one.search, one.devices
    stopped = sum(stop is not None for stop in search.stops.values())
    searches = sorted(each.search.seconds / 3600 for each in studies)
    even = study(config, replace(device, spread=0.0), n, options, luck=0)
    uneven = study(config, device, n, options, luck=0)
    size, nodes = SAVED * device.adapter / 1e6, math.ceil(n / options.devices_per_node)
    sent, held = row_bytes(options.row, options.summary)
    rows = options.articles + VALIDATION
    blind = min(options.trials, simulated.STARTUP + 2 * (n - 1))
    lost = {what: part / (n * one.together) for what, part in one.lost().items()}
    share = {what: 100 * max(0.0, part) for what, part in lost.items()}
    worst = max((what for what in share if what != "what counts"), key=share.__getitem__)
    stragglers = 100 * (uneven.together / even.together - 1)
    return [
        f"Most is lost to {worst}: {share[worst]:.0f}% of all device-hours."
        if share[worst] >= 1
        else "Nothing is lost that a device more or less would change.",
        f"Search: {stopped} of {options.trials} trials stopped early; {searches[0]:,.1f} to "
        f"{searches[-1]:,.1f} h, by luck.",
        f"Proposals: {blind} of {options.trials} settings are proposed at random, before the first "
        "results count.",
        f"The baseline's training: {one.processes} of {n} devices share it.",
        f"Checkpoints: {search.checkpoints} of {size:,.1f} MB in the search, "
        f"{search.checkpoints * size / search.seconds:,.3f} MB/s in the mean; {n * size:,.0f} MB "
        "where all devices save at the same moment.",
        f"Rows: {rows * sent / 1e9:.1f} GB through the object store to each of {nodes} nodes, and "
        f"{rows * held / 1e9:.0f} GB of memory in each process that trains.",
        f"Stragglers: with a spread of {device.spread:.2f} the study takes "
        f"{stragglers:+.1f}% longer than with none.",
    ]


def served(device: Device, options: argparse.Namespace) -> list[str]:
    """What so many articles a day take, with a server of the reader's or nutgraf's own loop."""
    a_second = options.served / DAY
    prompt, summary = (options.row - options.summary) * a_second, options.summary * a_second
    own = options.served * device.written / DAY
    comparison = (
        f"{math.ceil(options.peak * (prompt + summary) / options.replica_tokens):,} replicas at "
        f"{options.replica_tokens:,.0f} tokens a second each"
        if options.replica_tokens
        else "replicas: enter --replica-tokens, what one of yours takes and gives a second"
    )
    return [
        f"{options.served:,} articles a day are {a_second:.1f} a second: {prompt:,.0f} tokens read "
        f"and {summary:,.0f} written a second in the mean, {options.peak:g} times at the peak.",
        f"vLLM behind Ray Serve: {comparison}.",
        f"nutgraf's own loop, in batches, losses included: {own:,.1f} devices, always busy.",
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", help="a run folder, or a configuration with the speeds below")
    add("--training", type=float, help="tokens a second of one device, in training")
    add("--reading", type=float, help="tokens a second of one device, in a forward pass")
    add("--summaries", type=float, help="summaries a second of one device, in batches")
    add("--adapter", type=int, help="weights of the adapter")
    add("--devices", type=int, nargs="+", default=[1, 8, 64])
    add("--devices-per-node", type=int, default=8)
    add("--price", type=float, help="of one device for an hour; without it no cost is shown")
    add("--articles", type=int, default=TRAIN, help="of each trial and the baseline")
    add("--test", type=int, default=TEST)
    add("--row", type=int, default=ROW, help="tokens of a training row")
    add("--summary", type=int, default=SUMMARY, help="tokens of a summary")
    add("--trials", type=int, default=64)
    add("--evaluations", type=int, default=16, help="of each training")
    add("--preparing", type=float, default=PREPARING, help="seconds an article")
    add("--spread", type=float, help="of like pieces of work, instead of what is measured")
    add("--network", type=float, default=1.25e9, help="bytes a second between processes (10 Gbit)")
    add("--draws", type=int, default=9, help="simulated studies, each with other luck")
    add("--served", type=int, default=1_000_000, help="articles a day")
    add("--peak", type=float, default=3.0, help="busiest moment, times the mean: an assumption")
    add("--replica-tokens", type=float, help="tokens a second, read and written, of one replica")
    options = parser.parse_args()
    own_speeds = (options.training, options.reading, options.summaries, options.adapter)
    if not Path(options.source).is_dir() and None in own_speeds:
        parser.error("a configuration needs --training, --reading, --summaries and --adapter")
    return options


if __name__ == "__main__":
    main()
