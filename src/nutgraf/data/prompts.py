"""Turn articles into token ids: one renderer for training, search, evaluation and serving.

A prompt is a fixed head, the article and a fixed tail. Only the article is ever cut, at its end,
because news leads with its point. The head, the tail, the summary and its end-of-sequence token
always survive. Each part is turned into ids by itself, so the ids of a prompt are the same with
and without a summary behind them. Text of articles and summaries is never read as a special
token: `</s>` in an article is four characters.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from nutgraf.config import PromptConfig
from nutgraf.core.errors import UserError, library_errors
from nutgraf.data.examples import IGNORED, Encoded, Example, Prompt
from nutgraf.data.text import TextError, clean_text, usable_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER = "\n\nSummary:"

# Characters that are tokenized at a time: a tokenizer takes more than twice as long over 10 MB in
# one piece. Pieces begin with a space that stands alone, where tokenizers of words end a token.
_PIECE = 50_000
_BREAK = re.compile(r"(?<=\S) (?=\S)")

_ARTICLE = "\ue000"  # a private-use character that holds the article's place in a template


class PromptError(UserError):
    """An article and its summary cannot be put within the limits."""


class Frame(NamedTuple):
    """The text before the article and its space, and the text between it and the summary.

    A chat template may write the date, or draw at random. So a study renders it once, and all that
    comes later, saved models included, uses what came out.
    """

    head: str
    tail: str


@dataclass(frozen=True)
class Piece:
    """One token of a training row, as text; empty if a character ends with a later token."""

    id: int
    text: str
    trained_on: bool


class Renderer:
    """Renders articles for one tokenizer within the limits of one PromptConfig."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: PromptConfig, frame: Frame | None = None
    ) -> None:
        """Prepare the fixed parts, of a template as it is rendered now if there is no `frame`.

        Raise PromptError if template and tokenizer do not fit together, or leave no room.
        """
        if tokenizer.eos_token_id is None:
            raise PromptError("the tokenizer has no end-of-sequence token: choose another base")
        self._tokenizer = tokenizer
        self._config = config
        self._prefixes: dict[tuple[str, bool], list[int]] = {}
        # What an article is tokenized behind: one that takes digits alone, such as SmolLM2's, joins
        # a line break with the space before a number.
        self._before = "\n" if self._is_apart("\n", " 1") else ":"
        self.frame = head, tail = frame or _frame(tokenizer, config)
        self._opening, opening = _opening(tokenizer)
        if self._opening and head.startswith(self._opening):
            opening = []  # the template has its own
        self._head = opening + self._ids(head, special=True)
        self._tail = self._after("a", tail, special=True)
        # A chat template that ends its line is followed by the answer, anything else by a space.
        self._gap = "" if tail[-1:].isspace() else " "
        self._article_limit = min(
            config.max_article_tokens, config.max_tokens - len(self._head) - len(self._tail)
        )
        if self._article_limit < 1:
            raise PromptError(
                f"the prompt's own words take {len(self._head) + len(self._tail):,} tokens, limit "
                f"{config.max_tokens:,}: shorten prompt.request or raise prompt.max_tokens"
            )

    @property
    def tail_tokens(self) -> int:
        """Return how many tokens of a prompt follow its article."""
        return len(self._tail)

    def recipe(self) -> dict[str, Any]:
        """Return how another program builds the same prompts.

        A prompt is `head`, at most `limit` ids of the article, `tail`. The article's ids are those
        of `before`, a space and its text, without the first `skip`. `text_before` and
        `text_after` stand around the text, for a program that adds what the tokenizer adds.
        """
        before, after = self.frame
        return {
            "head": self._head,
            "tail": self._tail,
            "limit": self._article_limit,
            "before": self._before,
            "skip": len(self._ids(self._before, special=False)),
            "text_before": before.removeprefix(self._opening),
            "text_after": after,
        }

    def prompt(self, article: str) -> Prompt:
        """Return the prompt that asks for a summary. Raise PromptError for an empty article."""
        return self._render(self._article(article), self._article_limit)

    def example(self, article: str, reference: str) -> Example:
        """Return the training row of an article and its reference; raise like `encode`."""
        return self.encode(article, reference).example

    def encode(self, article: str, reference: str) -> Encoded:
        """Tokenize an article and its reference summary, once for training and for generation.

        The prompt of the training row is `prompt(article)`, unless a long summary needs some of the
        article's room. Raises PromptError if not one token of the article would be left.
        """
        answer = self._reference(reference)
        fixed = len(self._head) + len(self._tail) + len(answer)
        room = self._config.max_tokens - fixed
        if room < 1:
            raise PromptError(
                f"summary is {len(answer):,} tokens, limit {len(answer) - 1 + room:,} beside the "
                f"prompt's words: raise prompt.max_tokens (now {self._config.max_tokens:,})"
            )
        whole = self._article(article)
        prompt = self._render(whole, self._article_limit)
        own = self._render(whole, min(self._article_limit, room))
        return Encoded(
            Example(array("i", own.ids + answer), len(own.ids), own.trimmed_tokens),
            article_tokens=len(whole),
            prompt_ids=None if own.ids == prompt.ids else array("i", prompt.ids),
        )

    def answer(self, text: str) -> list[int]:
        """Return the ids of a text in the summary's place. Raise PromptError for an empty one."""
        return self._reference(text)[:-1]

    def text(self, ids: Sequence[int]) -> str:
        """Return the summary that generated `ids` (those after the prompt) stand for."""
        return summary_text(self._tokenizer, ids)

    def pieces(self, example: Example) -> list[Piece]:
        """Return the tokens of a training row as text, special ones by their names."""
        ids, pieces, context, start = example.input_ids, [], 0, 0
        for end, (token, label) in enumerate(zip(ids, example.labels, strict=True), 1):
            # A token is decoded after the one before it: some tokenizers drop a first space.
            before, text = (self._tokenizer.decode(ids[context:to]) for to in (start, end))
            piece = str(text)[len(before) :]
            if piece.endswith("\ufffd") and end < len(ids):
                piece = ""  # the first bytes of a character
            else:
                context, start = start, end
            pieces.append(Piece(token, piece, label != IGNORED))
        return pieces

    def _render(self, article: list[int], limit: int) -> Prompt:
        shown = article[:limit]
        return Prompt(self._head + shown + self._tail, len(shown), len(article) - len(shown))

    def _article(self, article: str) -> list[int]:
        try:
            return self._after(self._before, f" {usable_text(article)}")
        except TextError as error:
            raise PromptError(f"the article is {error}: give a text to summarize") from None

    def _reference(self, reference: str) -> list[int]:
        try:
            before = self._before if self._gap else "\n"
            ids = self._after(before, self._gap + usable_text(reference))
        except TextError as error:
            raise PromptError(f"the summary is {error}: a training row needs one") from None
        return [*ids, self._tokenizer.eos_token_id]

    def _after(self, before: str, text: str, special: bool = False) -> list[int]:
        """Return the ids of `text` where it follows `before` in a line of text.

        A tokenizer of the SentencePiece kind puts a space before its whole input; after `before`
        it reads `text` as it is.
        """
        ids: list[int] = []
        for piece in _pieces(text):
            ids += self._piece_after(before, piece, special)
            before = self._before
        return ids

    def _is_apart(self, before: str, text: str) -> bool:
        prefix = self._ids(before, special=False)
        return self._ids(before + text, special=False)[: len(prefix)] == prefix

    def _piece_after(self, before: str, text: str, special: bool) -> list[int]:
        ids = self._ids(before + text, special)
        if (before, special) not in self._prefixes:
            self._prefixes[before, special] = self._ids(before, special)
        prefix = self._prefixes[before, special]
        if ids[: len(prefix)] != prefix:
            raise PromptError(
                f"the tokenizer joins {before!r} with {text[:10]!r} into one token, so a prompt "
                "has no fixed parts: choose another base"
            )
        return ids[len(prefix) :]

    def _ids(self, text: str, special: bool) -> list[int]:
        encoded = self._tokenizer(
            text, add_special_tokens=False, split_special_tokens=not special, verbose=False
        )
        ids = encoded["input_ids"]
        assert isinstance(ids, list)
        return ids


def summary_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return the summary that generated `ids` (those after the prompt) stand for."""
    text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return clean_text(text)


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while space := _BREAK.search(text, start + _PIECE):
        yield text[start : space.start()]
        start = space.start()
    yield text[start:]


def _opening(tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[int]]:
    """Return what the tokenizer puts at the beginning of every text, if anything: as text, ids."""
    bos = tokenizer.bos_token_id
    if bos is None or tokenizer("a")["input_ids"][0] != bos:
        return "", []
    return str(tokenizer.bos_token), [bos]


def _frame(tokenizer: PreTrainedTokenizerBase, config: PromptConfig) -> Frame:
    request = f"{config.request} {_ARTICLE}"
    if config.template == "plain":
        text: object = f"{request}{ANSWER}"
    elif tokenizer.chat_template is None:
        raise PromptError("the tokenizer has no chat template: set prompt.template to plain")
    else:
        chat = [{"role": "user", "content": request}]
        fact, change = "prompt.template is 'chat' and the chat template fails", "set it to plain"
        with library_errors(fact, change):
            text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    head, place, tail = str(text).partition(f" {_ARTICLE}")
    if not place or _ARTICLE in tail:
        raise PromptError(
            "the chat template does not repeat the request once: set prompt.template to plain"
        )
    return Frame(head, tail)
