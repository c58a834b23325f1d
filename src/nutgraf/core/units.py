"""Write durations, bytes and perplexities for people."""

from __future__ import annotations

import math


def memory(size: int) -> str:
    """Return bytes as MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """Return seconds as 4 s, 3 min 20 s, or 2 h 5 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def rate(a_second: float) -> str:
    """Return a speed with two or three digits: 0.74, 7.4, 74, 1,480."""
    return f"{a_second:,.{0 if a_second >= 10 else 1 if a_second >= 1 else 2}f}"


def perplexity(total_nll: float, tokens: int) -> float:
    """Return exp of the mean negative log-likelihood (in nats) over `tokens` tokens."""
    if tokens < 1:
        raise ValueError(f"perplexity over {tokens} tokens is undefined")
    return math.exp(total_nll / tokens)
