"""Load YAML as a configuration needs it: plain values, no key twice, nothing that grows."""

from __future__ import annotations

from collections import Counter
from typing import Any, NoReturn

import yaml

LONGEST = 100_000  # characters; the longest configuration of this project has 4,000


def load_yaml(text: str) -> Any:
    """Return the value of `text`: mappings, lists, texts, numbers, dates, true, false, null.

    Raises ValueError with the line, if it is no YAML, is too long or too deep, or has a key twice
    (YAML takes the last), tags (which name Python objects) or anchors (a few lines with which
    stand for gigabytes).
    """
    if len(text) > LONGEST:
        raise ValueError(f"longer than {LONGEST:,} characters: that is no configuration")
    try:
        return yaml.load(text, _StrictLoader)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", error)
        tabs = "; indent with spaces, not with tabs" if "'\\t'" in str(problem) else ""
        raise ValueError(f"line {mark.line + 1 if mark else 1}: {problem}{tabs}") from None


class _StrictLoader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()
        if event.anchor:
            _refuse(event, "anchors and aliases are not taken, write the value out")
        if tag := getattr(event, "tag", None):
            _refuse(event, f"the tag {tag!r} is not taken, leave it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [str(key.value) for key, _ in node.value]
        if len(set(keys)) < len(keys):
            _refuse(node, f"{Counter(keys).most_common(1)[0][0]} stands twice")
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # the 99th day of a month, a number of thousands of digits
            _refuse(node, f"{str(node.value)[:40]!r} cannot be read ({error}), put text in quotes")


def _refuse(part: Any, problem: str) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=part.start_mark)
