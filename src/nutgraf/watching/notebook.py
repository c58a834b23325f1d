"""Draw a study as HTML that needs no script, for the output cell of a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from types import MappingProxyType
from typing import Any

from nutgraf.core.units import duration

_WIDTH, _HEIGHT, _MARGIN = 640, 220, 44  # pixels
_ROWS = 12  # trials in the table
_MARKS = {"finished": "✓", "running": "▶", "stopped": "◼", "earlier": "✓", "waiting": "·"}
_PLAIN = 'stroke="currentColor"'
_STYLE = {
    "stopped": 'stroke="#8a8f98" stroke-dasharray="4 3"',
    "error": 'stroke="#c9382c"',
    "running": 'stroke="#0a8f66" stroke-width="2"',
}


def render(state: dict[str, Any], samples: Mapping[str, Any] = MappingProxyType({})) -> str:
    """Return a snapshot as HTML that needs no script.

    It has stages, curves and a table of the trials, the latest of the samples, and problems.
    """
    stages = "  ".join(
        f"{_MARKS[stage['state']]} <b>{stage['name']}</b> {_time(stage)}"
        for stage in state["stages"]
    )
    trials = state["trials"]
    words = [f"{len(trials)} of {state['search']['of']} trials"] if trials else []
    best = next(((n, t["loss"]) for n, t in by_loss(trials) if t["points"]), None)
    if best:
        words.append(f"lowest validation loss {best[1]:.3f}, of trial {best[0]}")
    problems = "".join(f"<li>{escape(line['text'])}</li>" for line in state["problems"][-5:])
    last = state["log"][-1]["text"] if state["log"] else ""
    return (
        f'<div style="font: 14px system-ui, sans-serif; max-width: {_WIDTH}px">'
        f"<p>{stages}</p><p>{escape('; '.join(words))}</p>{_chart(trials) if best else ''}"
        f"{_table(state) if trials else ''}{_samples(samples)}"
        f'<ul style="color: #c9382c">{problems}</ul><p><code>{escape(last)}</code></p></div>'
    )


def _time(stage: dict[str, Any]) -> str:
    if stage["state"] in ("finished", "earlier"):
        return duration(stage["seconds"])
    return f"{stage['share']:.0%}" if stage["share"] else ""


def by_loss(trials: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the trials by number, that of the lowest loss first, those without one last."""
    return sorted(trials.items(), key=lambda each: (each[1]["loss"] is None, each[1]["loss"] or 0))


def _table(state: dict[str, Any]) -> str:
    """Return the trials of the lowest losses as a table."""
    settings = state["search"]["settings"]
    names = [name.rpartition(".")[2].replace("_", " ") for name in settings]
    rows = [["Trial", "State", *names, "Articles", "Loss", "ROUGE-Lsum"]]
    for number, trial in by_loss(state["trials"])[:_ROWS]:
        values = [trial["values"].get(name, "") for name in settings]
        shown = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in values]
        kind = "chosen" if trial["chosen"] else trial["state"]
        loss, rouge = trial["loss"], trial["rouge"]
        measured = "" if loss is None else f"{loss:.3f}", "" if rouge is None else f"{rouge:.1f}"
        rows.append([number, kind, *shown, f"{trial['seen']:,}", *measured])
    more = len(state["trials"]) - _ROWS
    return _rows(rows) + (f"<p>and {more} more of higher loss</p>" if more > 0 else "")


def _samples(samples: Mapping[str, Any]) -> str:
    """Return the references and the texts of the latest evaluation as a table, a row an article."""
    if not samples:
        return ""
    latest = samples["evaluations"][-1]
    after = f"After {latest['examples']:,} seen: loss {latest['loss']:.3f}"
    references = [article["reference"] for article in samples["articles"]]
    return _rows([["Reference", after], *zip(references, latest["texts"], strict=False)])


def _rows(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of texts as a table, the first as its head."""
    head, *body = (
        "".join(
            f'<{cell} style="text-align: left; vertical-align: top">{escape(text)}</{cell}>'
            for text in row
        )
        for cell, row in zip(["th", *["td"] * (len(rows) - 1)], rows, strict=True)
    )
    body = [f"<tr>{row}</tr>" for row in body]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


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
