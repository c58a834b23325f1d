"""Choose example articles of the newswire, and warn of the pocket model."""

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
_STORIES = 60  # include every kind


def examples() -> list[Example]:
    """Return one article of each kind."""
    stories = {s.kind: s for s in reversed(newswire.stories("test", _STORIES, _SEED))}
    return [Example(kind=title, article=stories[k].article) for k, title in _TITLES.items()]
