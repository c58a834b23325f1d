"""Show a study in the output cell of a notebook while the cell runs it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from nutgraf.core.errors import UserError
from nutgraf.core.units import duration
from nutgraf.watching.snapshot import Watcher

_EVERY = 2.0  # seconds between two looks
_WIDTH, _HEIGHT, _MARGIN = 640, 220, 44  # pixels
_MARKS = {"finished": "✓", "running": "▶", "stopped": "◼", "earlier": "✓", "waiting": "·"}
_PLAIN = 'stroke="currentColor"'
_STYLE = {
    "stopped": 'stroke="#8a8f98" stroke-dasharray="4 3"',
    "error": 'stroke="#c9382c"',
    "running": 'stroke="#0a8f66" stroke-width="2"',
}


@contextlib.contextmanager
def shown(folder: Path) -> Iterator[None]:
    """Show the study in `folder`, which the block runs in this process, in an output cell.

    Raises UserError outside a notebook.
    """
    show = _cell()
    folder.mkdir(parents=True, exist_ok=True)
    # This process has the lock of the folder, and would lose it by asking who has.
    watcher = Watcher(folder, who=lambda: "this notebook")
    ended = threading.Event()

    def repeat() -> None:
        last = ""
        while not ended.wait(_EVERY):
            if (page := render(watcher.latest())) != last:
                show(last := page)

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        show(render(Watcher(folder, who=lambda: None).latest()))


def render(state: dict[str, Any]) -> str:
    """Return a snapshot as HTML that needs no script: stages, curves of the trials, problems."""
    stages = "  ".join(
        f"{_MARKS[stage['state']]} <b>{stage['name']}</b> {_time(stage)}"
        for stage in state["stages"]
    )
    trials = state["trials"]
    words = [f"{len(trials)} of {state['search']['of']} trials"] if trials else []
    best = min(((t["loss"], n) for n, t in trials.items() if t["points"]), default=None)
    if best:
        words.append(f"lowest validation loss {best[0]:.3f}, of trial {best[1]}")
    problems = "".join(f"<li>{escape(line['text'])}</li>" for line in state["problems"][-5:])
    last = state["log"][-1]["text"] if state["log"] else ""
    return (
        f'<div style="font: 14px system-ui, sans-serif; max-width: {_WIDTH}px">'
        f"<p>{stages}</p><p>{escape('; '.join(words))}</p>{_chart(trials) if best else ''}"
        f'<ul style="color: #c9382c">{problems}</ul><p><code>{escape(last)}</code></p></div>'
    )


def _time(stage: dict[str, Any]) -> str:
    if stage["state"] in ("finished", "earlier"):
        return duration(stage["seconds"])
    return f"{stage['share']:.0%}" if stage["share"] else ""


def _curves(trials: dict[str, Any]) -> list[tuple[str, list[Any]]]:
    return [(trial["state"], trial["points"]) for trial in trials.values() if trial["points"]]


def _chart(trials: dict[str, Any]) -> str:
    """Return the validation losses by articles seen as SVG; the highest may be cut off."""
    curves = _curves(trials)
    losses = sorted(y for _, points in curves for _, y in points)
    low, high = losses[0], losses[int(0.95 * (len(losses) - 1))]
    high = high if high > low else low + 1
    last = max(x for _, points in curves for x, _ in points)

    def place(x: float, y: float) -> str:
        across = _MARGIN + x / last * (_WIDTH - 2 * _MARGIN)
        down = 12 + (high - min(y, high + (high - low) / 10)) / (high - low) * (_HEIGHT - 40)
        return f"{across:.1f},{down:.1f}"

    lines = "".join(
        f'<polyline fill="none" stroke-linecap="round" {_STYLE.get(state, _PLAIN)} '
        f'points="{" ".join(place(*point) for point in [*points, points[-1]])}"/>'
        for state, points in curves
    )
    texts = "".join(
        f'<text x="0" y="{place(0, loss).split(",")[1]}" fill="currentColor">{loss:.2f}</text>'
        for loss in (low, high)
    )
    below = f"validation loss by articles seen, up to {last:,.0f}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" font-size="12" aria-label="{below}">'
        f'{texts}{lines}<text x="{_MARGIN}" y="{_HEIGHT - 4}" fill="currentColor">{below}</text>'
        "</svg>"
    )


def _cell() -> Callable[[str], None]:
    """Return a function that shows HTML in the output cell, in place of what was there."""
    try:
        from IPython import display, get_ipython
    except ImportError:
        get_ipython = None
    if get_ipython is None or get_ipython() is None:
        raise UserError("watch=True needs a notebook: elsewhere give `nutgraf run --watch`")
    handle = display.display(display.HTML(""), display_id=True)
    return lambda page: handle.update(display.HTML(page))
