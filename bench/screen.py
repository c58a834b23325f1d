"""What seven levers of the training bring, each estimated from all of eight trainings.

One training a lever against one baseline leaves intervals of ±1 ROUGE-Lsum. Here each lever is on
in four of eight trainings and off in four, in a fractional factorial design of resolution III
(Plackett & Burman 1946), so that every difference is one of means over four trainings. It takes
the levers to add up: two that only work together are not seen. Each training has its own seed.
Articles and options are those of `recipe.py`; what has been trained stays in the folder.

    python bench/screen.py --rows cnndm-train-cased.parquet --out DIR
    python bench/screen.py --rows cnndm-train-cased.parquet --out DIR --table      what there is
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from levers import LEVERS, Lever
from recipe import Arguments, command_line, measure

from nutgraf.data.examples import Example
from nutgraf.evaluation.significance import paired_difference

SCREENED = (
    "learning rate 4e-4",
    "alpha 64",
    "r 64, alpha 64 (rank-stabilized)",
    "LoRA+, B 16 times",
    "EVA",
    "cosine",
    "320 rows twice",
)
RUNS = 8
ALPHA = 32  # of the configuration


def main() -> None:
    arguments = command_line(__doc__).parse_args(namespace=Arguments())
    training, held_out, _ = arguments.split()
    for run in () if arguments.table else range(RUNS):
        if not (arguments.out / f"run {run}.json").exists():
            lever = combined([LEVERS[name] for name in levers_of(run)])
            config = arguments.config_of(lever, seed=run + 1)
            measure(f"run {run}", lever, config, lever.rows(training), held_out, arguments.out)
    print_table(arguments.out)


def is_on(run: int) -> list[bool]:
    """Return which of seven levers are on in a run: three bits, their products, all off in run 0.

    A product of bits stands for 'an odd number of them is set', so that in run 0 no lever is on.
    """
    a, b, c = (bool(run & bit) for bit in (1, 2, 4))
    return [a, b, c, a != b, a != c, b != c, (a != b) != c]


def levers_of(run: int) -> list[str]:
    return [name for name, on in zip(SCREENED, is_on(run), strict=True) if on]


def combined(levers: Sequence[Lever]) -> Lever:
    """Return the lever that does what all of these do; their changes of alpha are multiplied."""
    settings: dict[str, Any] = functools.reduce(lambda a, b: a | b.settings, levers, {})
    alphas = [lever.settings.get("lora.alpha", ALPHA) for lever in levers]
    settings["lora.alpha"] = round(ALPHA * np.prod([alpha / ALPHA for alpha in alphas]))

    @contextlib.contextmanager
    def patch(rows: Sequence[Example]) -> Any:
        with contextlib.ExitStack() as stack:
            for lever in levers:
                stack.enter_context(lever.patch(rows))
            yield

    def rows(rows: pd.DataFrame) -> pd.DataFrame:
        return functools.reduce(lambda part, lever: lever.rows(part), levers, rows)

    return Lever(settings, rows, patch)


def print_table(out: Path) -> None:
    """Print a line of Markdown for each lever, from the runs that there are."""
    paths = [out / f"run {run}.json" for run in range(RUNS)]
    runs = [json.loads(path.read_text("utf-8")) for path in paths if path.exists()]
    if len(runs) < RUNS:
        print(f"{len(runs)} of {RUNS} trainings are there: no table yet")
        return
    scores = np.array([run["scores"] for run in runs])[:, :, 2]  # [run, article], ROUGE-Lsum
    print(
        f"\nn = {scores.shape[1]} held-out articles, {RUNS} trainings; the mean of all has ", end=""
    )
    print(f"{scores.mean():.2f} ROUGE-Lsum\n")
    print("| lever | ROUGE-Lsum, on minus off | loss | words | training, s |")
    print("|---|---|---|---|---|")
    for index, name in enumerate(SCREENED):
        on = np.array([is_on(run)[index] for run in range(RUNS)])
        d = paired_difference(scores[on].mean(0), scores[~on].mean(0), resamples=10_000, seed=1)
        others = " | ".join(
            f"{_mean(runs, on, key) - _mean(runs, ~on, key):{form}}"
            for key, form in (("loss", "+.4f"), ("words", "+.1f"), ("training_seconds", "+.0f"))
        )
        print(f"| {name} | {d.mean:+.2f} ({d.low:+.2f} to {d.high:+.2f}) | {others} |")


def _mean(runs: Sequence[dict[str, Any]], chosen: np.ndarray, key: str) -> float:
    return float(np.array([run[key] for run in runs])[chosen].mean())


if __name__ == "__main__":
    main()
