"""How long a look at a large search takes, what is sent to the page, and how fast the page is.

The search is invented: its trials have 100 evaluations each, and the first gets a further one
before each later look. The page is opened in Debian's Chromium without a GPU.

    python bench/watch.py [--trials 1000]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from helpers import watched
from helpers.browser import browser

from nutgraf.config.load import to_yaml, with_overrides
from nutgraf.watching.snapshot import Watcher, changes

EVALUATIONS = 100
AGAIN = 5  # looks with news
SORT = """(async () => {
  const start = performance.now();
  document.querySelector('th[data-by=loss] button').click();
  await new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)));
  return (performance.now() - start) / 1000;
})()"""
POINT = """new Promise(resolve => {
  const chart = document.querySelector('#losses svg'), box = chart.getBoundingClientRect();
  const start = performance.now();
  let pictures = 0;
  const step = () => {
    const clientX = box.left + box.width * (pictures * 7 % 100) / 100;
    chart.dispatchEvent(new PointerEvent('pointermove', {clientX, clientY: box.top + 150}));
    pictures += 1;
    const seconds = (performance.now() - start) / 1000;
    if (seconds < 2) requestAnimationFrame(step); else resolve(pictures / seconds);
  };
  requestAnimationFrame(step);
})"""


def losses(number: int, evaluations: int) -> list[float]:
    """Return a curve that falls; the curves of two trials never cross."""
    return [2 + number / 1000 + 2 / (i + 1) for i in range(evaluations)]


def write(folder: Path, trials: int, grace: int) -> None:
    """Write a search in which all trials but the first are whole, or stopped after `grace`."""
    overrides = {"search.trials": trials, "search.grace_evaluations": grace}
    length = {"train.max_examples": 80 * (EVALUATIONS + AGAIN + 1)}
    config = with_overrides(watched.CONFIG, {**overrides, **length})
    watched.write_search(folder)
    (folder / "config.yaml").write_text(to_yaml(config))
    for number in range(1, trials + 1):
        watched.write_trial(folder, number, losses(number, EVALUATIONS), whole=number > 1)


def look(folder: Path) -> None:
    """Print what a first look and later ones cost, in processor seconds and bytes of JSON."""
    watcher = Watcher(folder)
    start = time.process_time()
    before = watcher._take()
    first, later, sent = time.process_time() - start, [], 0
    for n in range(1, AGAIN + 1):
        watched.write_trial(folder, 1, losses(1, EVALUATIONS + n))
        start = time.process_time()
        news = changes(before, after := watcher._take())
        later.append(time.process_time() - start)
        before, sent = after, len(json.dumps(news["trials"]))
    stopped = sum(trial["state"] == "stopped" for trial in after["trials"].values())
    print(
        f"{stopped} trials stopped: first {first:.2f} s, with news of one "
        f"{statistics.median(later):.3f} s (n = {AGAIN}); sent {len(json.dumps(after)) / 1e6:.2f} "
        f"MB, then {sent / 1e3:.1f} kB"
    )


def show(folder: Path, trials: int, profile: Path) -> None:
    """Print how long the page takes to open and to sort, and its pictures a second."""
    rows = "document.querySelectorAll('tbody tr').length"
    with watched.watching(folder) as address, browser(profile) as page:
        start = time.perf_counter()
        page.open(f"{address}/#token={watched.TOKEN}", 1280, "light")
        while page.run(rows) < trials:
            time.sleep(0.02)
        opened = time.perf_counter() - start
        sorts = sorted(page.run(SORT) for _ in range(AGAIN))
        print(
            f"page open {opened:.1f} s; sorted in {sorts[0]:.2f} to {sorts[-1]:.2f} s "
            f"(n = {AGAIN}); {page.run(POINT):.0f} pictures a second while the pointer moves"
        )


def main() -> None:
    """Measure a search whose trials are stopped, then one without stops, and its page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    with tempfile.TemporaryDirectory() as name:
        for grace in (1, EVALUATIONS + AGAIN + 1):
            folder = Path(name) / f"grace-{grace}"
            write(folder, trials, grace)
            look(folder)
        show(folder, trials, Path(name) / "profile")


if __name__ == "__main__":
    main()
