"""Compare two systems of a study, article by article, in an order that nobody chooses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nutgraf.judging.prediction import FEATURES
from nutgraf.judging.record import Click, clicks_in_force


@dataclass(frozen=True)
class Item:
    """An article with the summaries of two systems, in the order of the systems.

    `features` are those of the first summary less those of the second, as FEATURES names them.
    """

    id: str
    article: str
    reference: str
    texts: tuple[str, str]
    features: tuple[float, ...]

    @property
    def rouge(self) -> float:
        """Return by how many points of ROUGE-Lsum the first summary is ahead."""
        return self.features[FEATURES.index("rougeLsum")]


class Pair:
    """Two systems and the articles on which their summaries differ, in a seeded random order.

    The order is the study's, equal for all judges, so that two who stop early have judged the same
    articles. Which summary is at the left is drawn for each judge and article.
    """

    def __init__(self, systems: Sequence[str], seed: str, items: Iterable[Item]) -> None:
        first, second = systems
        self.systems, self._seed = (first, second), seed
        all_items = list(items)
        different = [item for item in all_items if item.texts[0].split() != item.texts[1].split()]
        self.same = len(all_items) - len(different)
        self.items = {item.id: item for item in sorted(different, key=self._place)}
        self.texts = {item.id: self._texts(item) for item in different}

    def _place(self, item: Item) -> bytes:
        return _hash(self._seed, item.id)

    def left(self, judge: str, item: Item) -> str:
        """Return the system whose summary is at the left."""
        return sorted(self.systems)[_hash(self._seed, item.id, judge, *sorted(self.systems))[0] & 1]

    def _texts(self, item: Item) -> str:
        """Return a hash of what is compared, whichever system is named first."""
        texts = sorted(zip(self.systems, item.texts, strict=True))
        return _hash(item.article, *(text for pair in texts for text in pair)).hex()[:16]

    def summary(self, item: Item, system: str) -> str:
        """Return the summary of one of the systems."""
        return item.texts[self.systems.index(system)]

    def other(self, system: str) -> str:
        """Return the other system."""
        return self.systems[1 - self.systems.index(system)]

    def clicks(self, rows: Sequence[Click]) -> tuple[list[Click], int]:
        """Return the clicks in force on today's texts, and how many are on texts that changed."""
        clicks = clicks_in_force(rows, self.systems)
        valid = [click for click in clicks if self.texts.get(click["id"]) == click["texts"]]
        return valid, len(clicks) - len(valid)


def _hash(*parts: Any) -> bytes:
    return hashlib.sha256(json.dumps(parts).encode()).digest()
