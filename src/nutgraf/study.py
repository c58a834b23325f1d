"""The study: its stages in their order, what is done, what is next."""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence

from nutgraf.config import to_yaml
from nutgraf.lock import held
from nutgraf.progress import say
from nutgraf.runfolder import RunFolder, write_text
from nutgraf.settings import Config

STAGES = {
    "prepare": "articles in, cleaned, split, counted",
    "search": "settings tried on train and validation",
    "train": "the baseline and the best",
    "generate": "summaries of the test articles by every system",
    "score": "ROUGE and indicators, article by article",
    "compare": "the table, the analysis, the model to take away",
    "report": "figures, report.html, report.md",
}


def run(config: Config, stages: Sequence[str] = tuple(STAGES), force: bool = False) -> bool:
    """Run the named stages in the folder `config.run`; what is done and unchanged is skipped.

    Returns whether anything had to be made. `force` makes it again all the same.
    """
    folder = RunFolder(config.run)
    with held(folder.path):
        write_text(folder.config, to_yaml(config))
        return _run(config, folder, stages, force)


def _run(config: Config, folder: RunFolder, stages: Sequence[str], force: bool) -> bool:
    anything = False
    for number, name in enumerate(STAGES, 1):
        if name not in stages:
            continue
        title = f"[{number}/{len(STAGES)}] {name:<8}"
        say(f"{title} {STAGES[name]}")
        started = time.perf_counter()
        # Imported when their turn comes: `nutgraf --help` loads neither torch nor Ray.
        stage = importlib.import_module(f"nutgraf.stages.{name}")
        if stage.run(config, folder, force=force):
            anything = True
            say(f"{title} done in {time.perf_counter() - started:.0f} s")
        else:
            say(f"{title} unchanged, skipped")
    return anything
