"""How a model is loaded in other programs: what the model card shows and Ollama is told.

The words are in templates/usage.md and templates/Modelfile.jinja; the tests run each block of
Python whose program is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def usage_section(about: Mapping[str, Any], form: str) -> str:
    """Return the section on loading a model of that form, `adapter`, `merged` or `gguf`."""
    return render("usage.md", about, form=form)


def modelfile(about: Mapping[str, Any]) -> str:
    """Return what Ollama reads of `model.gguf`: prompt, decoding, context."""
    return render("Modelfile.jinja", about)


def render(template: str, about: Mapping[str, Any], **values: Any) -> str:
    """Fill in a template of Markdown or plain text; a value that is missing is an error."""
    environment = Environment(
        loader=PackageLoader("nutgraf.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**about, **values)
