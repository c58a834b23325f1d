"""What a person sees while it works: single lines on standard error."""

from __future__ import annotations

import sys

from nutgraf.problems import visible, without_secrets


def say(text: str) -> None:
    """One line of progress; what a terminal would obey is shown as escapes."""
    print(visible(without_secrets(text)), file=sys.stderr, flush=True)
