"""Articles of the embedded newswire to try, and what has to be said of the pocket model."""

from __future__ import annotations

from nutgraf.pocket import newswire
from nutgraf.serving.schema import Example

CAUTION = (
    "The pocket model knows the words of its synthetic newswire only: the examples are its world, "
    "and other articles show that everything runs."
)
_TITLES = {
    "quake": "Earthquake",
    "election": "Election",
    "football": "Football",
    "strike": "Strike",
    "rescue": "Rescue",
}
_SEED = 2
_ENOUGH = 60  # stories, among which every kind occurs


def examples() -> list[Example]:
    """One article of each kind."""
    stories = {s.kind: s for s in reversed(newswire.stories("test", _ENOUGH, _SEED))}
    return [Example(kind=title, article=stories[k].article) for k, title in _TITLES.items()]
