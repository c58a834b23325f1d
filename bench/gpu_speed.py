"""The parts of bench/gpu.py that are about speed alone: training, trials together, writing."""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from threading import BrokenBarrierError
from typing import Any

import peers
import together as packing
import torch
from gpu_bench import WARM, Bench, free
from rows import Pair

from nutgraf.config import Config, GenerateConfig, ModelConfig
from nutgraf.core.errors import Failure
from nutgraf.data.examples import Example
from nutgraf.generation.decoding import generate_candidates
from nutgraf.modeling.adapters import fresh_adapter
from nutgraf.modeling.load import choose_device, load_base, load_tokenizer
from nutgraf.modeling.losses import DeviceMemoryError
from nutgraf.modeling.shape import read_dims

LOADING = 15  # seconds to load a base and to warm up, below which nothing is begun with one


def train(bench: Bench) -> None:
    """One training in NF4 and bf16: nutgraf, TRL's quick start, a plain loop and its variants."""
    sizes, base = bench.sizes, bench.base(bench.large)
    pairs = bench.pairs(16)
    rows = bench.rows(pairs, base)
    seconds, larger = {}, []
    for kind in sizes.kinds:  # on a slow device there is no time for more than this
        nf4, words = kind == "nf4", _in_words(kind)
        seconds[kind], whole = _ours(bench, base, rows, kind, sizes.micros[:2])
        larger += [kind] if whole else []
        what = f"TRL quick start, {words}"
        with bench.attempt(what):
            examples, out = 8 * (WARM + sizes.examples // 8), bench.scratch / "trl"
            with contextlib.redirect_stdout(sys.stderr):  # its lines stand in no table
                cost = peers.quick_start(Path(base), pairs, examples, out, nf4, WARM)
            bench.add_cost(what, cost, base, 8)
        with bench.attempt(f"plain loop, {words}"):
            _loop(bench, base, nf4, words, seconds[kind])
    for kind in larger:
        _ours(bench, base, rows, kind, sizes.micros[2:], seconds[kind])
    for kind in sizes.compiled:
        what = f"plain loop, compiled layers, {_in_words(kind)}"
        if bench.fits(0 if bench.rehearsing else 30, what):
            with bench.attempt(what):
                bench.add_cost(what, _compiled(bench, base, kind == "nf4", pairs), base, 8)


def _in_words(kind: str) -> str:
    return "NF4" if kind == "nf4" else "bf16"


def _ours(
    bench: Bench,
    base: str,
    rows: Sequence[Example],
    kind: str,
    micros: Sequence[int],
    seconds: float = 0.0,
) -> tuple[float, bool]:
    """Measure nutgraf with larger and larger micro-batches, until memory or time ends.

    The last measurement before took `seconds`; return those of the last one, and whether all were
    measured.
    """
    words, whole = _in_words(kind), False
    with bench.attempt(f"nutgraf, {words}"):
        for micro in micros:
            if not bench.fits(2 * seconds, f"nutgraf, {words}, {micro} rows"):
                break
            started = time.perf_counter()
            config = bench.config(base, micro, **{"model.quantization": kind})
            cost, result = bench.fit(config, rows)
            if result.micro_batch_size < micro:
                bench.report.record("note", f"{words}: no memory for {micro} rows in a pass")
                break
            bench.add_cost(f"nutgraf, {words}", cost, base, micro)
            seconds = time.perf_counter() - started
        else:
            whole = True
    return seconds, whole


def _compiled(bench: Bench, base: str, nf4: bool, pairs: Sequence[Pair]) -> peers.Cost:
    loop = peers.PlainLoop(Path(base), nf4)
    loop.compile(bench.sizes.backend)
    rows = loop.rows(pairs, 8 + bench.sizes.examples)
    return loop.run(rows, batch=8, warm=1, multiple=64)


def _loop(bench: Bench, base: str, nf4: bool, words: str, seconds: float) -> None:
    """Measure a plain loop, and what fused AdamW and packed rows change.

    A measurement takes about so many `seconds`.
    """
    sizes = bench.sizes
    loop = peers.PlainLoop(Path(base), nf4)
    examples = 8 + sizes.examples
    rows = loop.rows(bench.pairs(16), examples)
    mixed = [pair for part in (2, 1) for pair in bench.pairs(8, sizes.tokens // part)]
    unlike = loop.rows(mixed, examples)
    runs: dict[str, tuple[Any, dict[str, Any]]] = {
        "plain loop": (rows, {}),
        "plain loop, fused AdamW": (rows, {"fused": True}),
        "plain loop, rows of half and whole length": (unlike, {}),
        "the same packed": (unlike, {"packed": sizes.tokens}),
    }
    for what, (of_lengths, change) in runs.items():
        if not bench.fits(seconds, f"{what}, {words}"):
            break
        with bench.attempt(f"{what}, {words}"):
            cost = loop.run(of_lengths, batch=8, warm=1, **change)
            bench.add_cost(f"{what}, {words}", cost, base, 8)
    _prove_apart(bench, loop, unlike, words)


@torch.no_grad()
def _prove_apart(
    bench: Bench, loop: peers.PlainLoop, rows: Sequence[peers.Row], words: str
) -> None:
    """Compare the losses of rows that are packed with those of the same rows alone."""
    group = max(peers.packed_rows(rows[:8], 2 * bench.sizes.tokens), key=len)
    alone = torch.cat([loop.nll([[row]])[0] for row in group])
    apart, mixed = (loop.nll([group], positions=p)[0] - alone for p in (True, False))
    bench.report.add(
        packed=f"{len(group)} rows, {words}",
        nats_of_a_row=float(alone.mean()),
        largest_difference_apart=float(apart.abs().max()),
        and_if_they_were_not=float(mixed.abs().max()),
    )


def together(bench: Bench) -> None:
    """K trials together against one after another, and against K processes."""
    for micro in bench.sizes.together_micros:
        for name in reversed(bench.sizes.shapes):
            options, what = _packing(bench, name, micro), f"{name}, {micro} rows each"
            if not bench.fits(0 if bench.rehearsing else LOADING, what):
                continue
            with bench.attempt(what):
                alone = _trials(bench, name, options)
                wanted = (name, micro) == (bench.small, 1)
                if wanted and bench.fits(0 if bench.rehearsing else 60, f"{name}, processes"):
                    free()
                    with bench.attempt(f"{name}, processes"):
                        _processes(bench, options, bench.sizes.together[0], alone)


def _trials(bench: Bench, name: str, options: argparse.Namespace) -> float:
    """Measure K trials together; return the seconds an article of one alone."""
    trainings, seconds = packing.Trainings(options), 0.0
    trainings.timed(trainings.in_turn, 1)  # warm, both
    trainings.timed(trainings.together, 1)
    alone, _ = trainings.timed(trainings.in_turn, 2)
    for k in bench.sizes.together:
        if not bench.fits(2 * seconds, f"{name}, {k} trials, {options.micro} rows each"):
            break
        started = time.perf_counter()
        took, _ = trainings.timed(trainings.together, k)
        seconds = time.perf_counter() - started
        bench.report.add(
            shape=name,
            trials=k,
            rows_of_each=options.micro,
            alone_ms_an_article=1e3 * alone,
            together_ms=1e3 * took,
            times_as_fast=alone / took,
            times_the_time_of_one=k * took / alone,
        )
    return alone


def _packing(bench: Bench, name: str, micro: int) -> argparse.Namespace:
    """Return the options of bench/together.py for a shape."""
    sizes = bench.sizes
    return argparse.Namespace(
        base=bench.base(name), articles=None, pairs=bench.pairs(sizes.of_trial + 4), nf4=False,
        dtype="bf16", tokens=sizes.tokens + 160, threads=None, evaluated=4, evaluations=1,
        examples=sizes.of_trial, micro=micro, max_packed=None,
    )  # fmt: skip


def _processes(bench: Bench, options: argparse.Namespace, k: int, alone: float) -> None:
    """K trainings, each in a process of its own, at the same time on the one device."""
    # A process that has used CUDA cannot be forked; one that has not is ready sooner.
    context = multiprocessing.get_context("fork" if bench.rehearsing else "spawn")
    if bench.rehearsing:  # a fork has none of the threads that its parent's OpenMP counts on
        options = argparse.Namespace(**{**vars(options), "threads": 1})
    ready = context.Barrier(k + 1)
    children = [context.Process(target=_train_in_turn, args=(options, ready)) for _ in range(k)]
    for child in children:
        child.start()
    try:
        ready.wait(timeout=max(1.0, bench.left))
        started = time.perf_counter()
        ready.wait(timeout=max(1.0, bench.left))
        took = (time.perf_counter() - started) / (k * options.examples)
    except BrokenBarrierError:
        ended = sum(child.exitcode is not None for child in children)
        raise Failure(f"{ended} of {k} processes ended, or their time was over") from None
    finally:  # else they would hold the device while others are measured
        for child in children:
            child.kill()
            child.join()
    bench.report.add(
        shape=Path(options.base).name,
        processes=k,
        rows_of_each=options.micro,
        alone_ms_an_article=1e3 * alone,
        processes_ms=1e3 * took,
        times_as_fast=alone / took,
    )


def _train_in_turn(options: argparse.Namespace, ready: Any) -> None:
    try:
        trainings = packing.Trainings(options)
        trainings.timed(trainings.in_turn, 1)
        ready.wait()
        trainings.timed(trainings.in_turn, 1)
        ready.wait()
    except BaseException:
        ready.abort()  # nobody waits for one that has failed
        raise


def generate(bench: Bench) -> None:
    """Summaries in batches until memory ends, and candidates of one reading."""
    for name in bench.sizes.shapes:
        what = f"summaries by {name}"
        if bench.fits(0 if bench.rehearsing else LOADING, what):
            with bench.attempt(what):
                _summaries(bench, name)


def _summaries(bench: Bench, name: str) -> None:
    sizes, n = bench.sizes, bench.sizes.new_tokens
    model, lora = ModelConfig(base=bench.base(name)), Config().lora
    dims, base, device = read_dims(model, lora), load_base(model), choose_device(model)
    tokenizer = load_tokenizer(model)
    rows = bench.rows(bench.pairs(16, sizes.tokens - n), model.base)
    prompts = [row.input_ids[: row.prompt_tokens] for row in rows]
    weights = sum(w.numel() * w.element_size() for w in base.parameters())
    seconds = 0.0
    with fresh_adapter(base, lora, seed=1) as adapted:
        adapted.eval()
        warm = GenerateConfig(max_new_tokens=4)
        generate_candidates(adapted, tokenizer, prompts[:1], warm, device)
        few = sizes.batches[1], sizes.candidates
        for batch, candidates in (few, *((batch, 1) for batch in sizes.batches)):
            what = f"{name}, {batch} articles"
            if not bench.fits(3 * seconds, what):
                break
            settings = GenerateConfig(
                max_new_tokens=n, min_new_tokens=n - 1, batch_size=batch, candidates=candidates
            )
            batched = [prompts[i % len(prompts)] for i in range(batch)]
            free(base=False)
            started = time.perf_counter()
            try:
                generate_candidates(adapted, tokenizer, batched, settings, device)
            except DeviceMemoryError as error:
                bench.report.record("note", f"{what}: {error}")
                break
            peers.synchronize()
            seconds = time.perf_counter() - started
            tokens = fmean(map(len, batched)) + n / 2  # of a row, in the middle of it
            cache = batch * candidates * tokens * 2 * dims.key_width * 2 * dims.layers
            bench.report.add(
                shape=name,
                articles=batch,
                candidates=candidates,
                seconds=seconds,
                new_tokens_a_second=batch * candidates * n / seconds,
                GB=peers.peak() / 1e9,
                share_of_bandwidth=n * (weights + cache) / seconds / bench.bandwidth,
            )
