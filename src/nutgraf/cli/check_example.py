"""Show a training row as text, token by token: what is trained on, what is cut."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from nutgraf.core.console import Styled, supports_colour
from nutgraf.data.examples import Example
from nutgraf.data.prompts import Piece, Renderer

PROMPT_TOKENS = 60  # shown of the example's prompt from its beginning; half as many from its end


def show(renderer: Renderer, examples: Sequence[Example]) -> tuple[str, list[Styled]]:
    """Return title and lines of a training row, if possible of one that is cut.

    Tokens that are trained on are green and others red; without colours the former stand in ⟦⟧.
    """
    example = next((e for e in examples if e.trimmed_tokens), examples[0])
    pieces = renderer.pieces(example)
    article_end = example.prompt_tokens - renderer.tail_tokens
    head_end = min(PROMPT_TOKENS, article_end)
    tail_start = max(head_end, article_end - PROMPT_TOKENS // 2)
    lines = [
        *_runs(pieces[:head_end]),
        *_note(tail_start - head_end, "not shown here"),
        *_runs(pieces[tail_start:article_end]),
        *_note(example.trimmed_tokens, "cut here"),
        *_runs(pieces[article_end:]),
    ]
    trained_on = len(pieces) - example.prompt_tokens
    key = "green, the rest red" if supports_colour() else "in ⟦⟧, the rest not"
    return f"One training row of {len(pieces)} tokens, {trained_on} trained on ({key})", lines


def _note(tokens: int, what: str) -> Iterator[Styled]:
    if tokens:
        yield Styled(f"({tokens:,} tokens {what})", "bold")


def _runs(pieces: Sequence[Piece]) -> Iterator[Styled]:
    """Yield the text, apart what is trained on and what is not; ⏎ is a line end of its own."""
    for trained_on, run in itertools.groupby(pieces, key=lambda piece: piece.trained_on):
        text = "".join(piece.text for piece in run).replace("\n", "⏎\n")
        if trained_on and not supports_colour():
            text = f"⟦{text}⟧"
        for line in text.splitlines():
            yield Styled(line, "green" if trained_on else "red")
