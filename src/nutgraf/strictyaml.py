"""YAML as settings need it: plain values, nothing twice, nothing that grows when it is read."""

from __future__ import annotations

from collections import Counter
from typing import Any, NoReturn

import yaml

LONGEST = 100_000  # bytes; the longest configuration of this project has 4,000
_DEEPEST = 20


class Mistake(Exception):
    """The text is not taken: `line 3: seed stands twice`."""


def load(text: str) -> Any:
    """The value that `text` stands for: mappings, lists, texts, numbers, dates, true, false, null.

    Raises Mistake for what is no YAML, and for tags (which name Python objects), anchors and
    aliases (a few lines of which stand for gigabytes), a key that stands twice (of which YAML
    takes the last), more than 20 levels, and more than 100,000 bytes.
    """
    if len(text) > LONGEST:
        raise Mistake(f"longer than {LONGEST:,} characters: that is no configuration")
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        place = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        tabs = "; indent with spaces, not with tabs" * ("'\\t'" in (error.problem or ""))
        raise Mistake(f"not valid YAML{place}: {error.problem or error.context}{tabs}") from None
    except yaml.YAMLError as error:
        raise Mistake(f"not valid YAML: {error}") from None


class _Loader(yaml.SafeLoader):
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            _refuse(event, "anchors and aliases are not taken, write the value out")
        if event.tag:
            _refuse(event, f"the tag {event.tag!r} is not taken, leave it out")
        self._depth += 1
        if self._depth > _DEEPEST:
            _refuse(event, f"more than {_DEEPEST} levels are not taken")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # the 99th day of a month, a number of thousands of digits
            _refuse(node, f"{str(node.value)[:40]!r} cannot be read ({error}), put text in quotes")


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    try:
        twice = sorted(str(key) for key, n in Counter(keys).items() if n > 1)
    except TypeError:
        _refuse(node, "a list or mapping cannot be a key")
    if twice:
        _refuse(node, f"{', '.join(twice)} stands twice")
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _refuse(where: Any, why: str) -> NoReturn:
    raise Mistake(f"line {where.start_mark.line + 1}: {why}")
