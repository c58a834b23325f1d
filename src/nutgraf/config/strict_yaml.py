"""YAML as settings need it: plain values, no key twice, nothing that grows when it is read."""

from __future__ import annotations

from typing import Any, NoReturn

import yaml

LONGEST = 100_000  # bytes; the longest configuration of this project has 4,000
_DEEPEST = 20


class Mistake(Exception):
    """The text is refused: `line 3: seed stands twice`."""


def load_yaml(text: str) -> Any:
    """Return the value of `text`: mappings, lists, texts, numbers, dates, true, false, null.

    Raises:
        Mistake: It is no YAML, or has tags (which name Python objects), anchors (a few lines of
            which stand for gigabytes), a key twice (YAML takes the last), more than 20 levels, or
            more than 100,000 characters.
    """
    if len(text) > LONGEST:
        raise Mistake(f"longer than {LONGEST:,} characters: that is no configuration")
    try:
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):  # flat: no recursion, whatever it holds
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                _refuse(event, f"more than {_DEEPEST} levels are not taken")
            if getattr(event, "anchor", None):
                _refuse(event, "anchors and aliases are not taken, write the value out")
            if tag := getattr(event, "tag", None):
                _refuse(event, f"the tag {tag!r} is not taken, leave it out")
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", error)
        place = f", line {mark.line + 1}" if mark else ""
        tabs = "; indent with spaces, not with tabs" if "'\\t'" in str(problem) else ""
        raise Mistake(f"not valid YAML{place}: {problem}{tabs}") from None


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                _refuse(key, "a list or mapping cannot be a key")
            if key.value in seen:
                _refuse(node, f"{key.value} stands twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # the 99th day of a month, a number of thousands of digits
            _refuse(node, f"{str(node.value)[:40]!r} cannot be read ({error}), put text in quotes")


def _refuse(where: Any, why: str) -> NoReturn:
    raise Mistake(f"line {where.start_mark.line + 1}: {why}")
