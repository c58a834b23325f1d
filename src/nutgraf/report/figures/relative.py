"""ROUGE-Lsum of measured systems as a share of another's."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from nutgraf.report.figures.canvas import INK, bars, canvas, say_if_empty, styled


@styled
def relative_performance(
    table: pd.DataFrame, data: str, published: tuple[str, float] | None
) -> Figure:
    """ROUGE-Lsum of every measured system in percent of lead-3's, and of a published system's.

    `table`: rows of measured systems with system, source, n, rougeLsum, rougeLsum_low and
    rougeLsum_high. `published`: name and ROUGE-Lsum; None where `data` are other articles than
    those it was published for, and no share can be given.
    """
    rows = table[table["source"] == "measured"]
    n = f"n = {int(rows['n'].max()):,} articles" if len(rows) else "no articles"
    lead = rows.loc[rows["system"] == "lead3", "rougeLsum"]
    figure, axes = canvas(
        "ROUGE-Lsum relative to others",
        f"Percent; mean over {n} of {data}. Whiskers: the system's own 95% interval "
        "as a share. Published: CNN/DailyMail test, n = 11,490."
        + ("" if published else " No share of it is given: other data."),
        columns=2,
        height=1.6 + 0.3 * len(rows),
        sharey=True,
    )
    bases = {"of lead-3, same articles": float(lead.iloc[0]) if len(lead) else None}
    if published:
        bases[f"of {published[0]}, published"] = published[1]
    for axis, (title, base) in zip(axes, bases.items(), strict=False):
        if not base:
            say_if_empty(axis, [], "not measured")
            continue
        share = 100 / base
        ends = zip(rows["rougeLsum_low"] * share, rows["rougeLsum_high"] * share, strict=True)
        whiskers = [(float(low), float(high)) for low, high in ends]
        bars(axis, rows["system"], rows["rougeLsum"] * share, f"% {title}", whiskers=whiskers)
        axis.axvline(100, color=INK, linewidth=1, linestyle=":")
    if not published:
        axes[1].set_title("% of a published system")
        axes[1].text(0.5, 0.5, "not given:\nother data", transform=axes[1].transAxes, ha="center")
        axes[1].tick_params(bottom=False, labelbottom=False)
    return figure
