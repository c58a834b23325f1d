"""Show a study in the output cell of a notebook while the cell runs it.

The cell has the page of `nutgraf watch` in a frame, and news for it come as messages, because a
browser cannot reach a server beside a kernel that runs elsewhere (Colab, Kaggle). A frame is not
made anew by news, so that what is chosen, sorted or scrolled stays. If scripts do not run, as in
a notebook that is not trusted, the cell shows the plain view (`watching.notebook`).
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from nutgraf.core.errors import UserError
from nutgraf.watching.notebook import by_loss, render
from nutgraf.watching.snapshot import Watcher, changes

_EVERY = 2.0  # seconds between two looks
_PACE = 100_000  # characters a second that are sent at most
_DETAILS = 300_000  # characters of curves and samples that a cell has at most
_HEIGHT = 760  # pixels
_HERE = Path(__file__).parent
# A file is taken from the first of them that has it.
_FOLDERS = tuple(_HERE / name for name in ("notebook_page", "watch_page", "page"))
# The texts of a study are shown by a page that reaches neither the notebook nor any other place.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
_IMPORT = re.compile(r'^import (\{[^}]+\}) from "\./(\w+\.js)";$', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:function\*?|class|const) (\w+))", re.MULTILINE)


@contextlib.contextmanager
def shown(folder: Path) -> Iterator[None]:
    """Show the study in `folder`, which the block runs in this process, in an output cell.

    Raises UserError outside a notebook.
    """
    name = f"nutgraf-{uuid.uuid4().hex}"
    show = _cell(frame(name))
    folder.mkdir(parents=True, exist_ok=True)
    # This process has the lock of the folder, and would lose it by asking who has.
    watcher = Watcher(folder, who=lambda: "this notebook")
    ended = threading.Event()

    def repeat() -> None:
        sent: dict[str, Any] = {}
        wait = _EVERY
        while not ended.wait(wait):
            if changes(sent, state := watcher.latest()):
                show(page := content(name, watcher, state))
                sent, wait = state, max(_EVERY, len(page) / _PACE)

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        last = Watcher(folder, who=lambda: None)
        show(content(name, last, last.latest()))


def frame(name: str) -> str:
    """Return HTML of the frame of this name, which is in sight once news have come to it."""
    # IPython warns of a frame that is in nothing else.
    return (
        f'<div><iframe id="{name}" title="nutgraf" sandbox="allow-scripts" '
        'style="display: block; width: 100%; height: 0; border: 0" '
        f'srcdoc="{escape(_page())}"></iframe></div>'
    )


def content(name: str, watcher: Watcher, state: dict[str, Any]) -> str:
    """Return HTML with a snapshot: the plain view, and a script that has the frame show it.

    The script hides the plain view once the frame has answered.
    """
    trials = by_loss(state["trials"])
    running = [number for number, trial in trials if trial["state"] == "running"]
    best = [number for number, trial in trials if trial["points"]]
    models = [*reversed(state["trainings"])]
    shown_first = (models or best)[:1]
    plain = render(state, watcher.samples(shown_first[0]) if shown_first else {})
    news = {**state, "report": False, "time": time.time()}  # the frame can open no report
    details = _details(watcher, list(dict.fromkeys([*models, *best[:1], *running, *best])))
    return (
        f"<style>body:has(#{name}[data-live]) #{name}-plain {{ display: none }}</style>"
        f'<div id="{name}-plain">{plain}</div>'
        f"<script>{_script(name, {'state': news, 'details': details})}</script>"
    )


def _script(name: str, news: dict[str, Any]) -> str:
    """Return a script that sends news to the frame, and shows it once it answers."""
    message = json.dumps(news).replace("<", "\\u003c")  # nothing in it ends the script
    # The frame may load later than its news come, and again if the notebook moves it.
    return f"""(() => {{
const frame = document.getElementById("{name}");
if (!frame) return;
const send = () => frame.contentWindow.postMessage({message}, "*");
frame.onload = send;
const heard = ({{ source }}) => {{
  if (source !== frame.contentWindow) return; // of another cell, or of the notebook itself
  removeEventListener("message", heard);
  frame.dataset.live = "";
  frame.style.height = "{_HEIGHT}px";
}};
addEventListener("message", heard);
send();
}})();"""


def _details(watcher: Watcher, names: list[str]) -> dict[str, Any]:
    """Return curves and samples of trainings, of as many of these as there is room for."""
    details: dict[str, Any] = {}
    size = 0
    for name in names:
        one = {"curves": watcher.curves(name), "samples": watcher.samples(name)}
        size += len(json.dumps(one))
        if details and size > _DETAILS:
            break
        details[name] = one
    return details


def _page() -> str:
    """Return the page of `nutgraf watch` as one text, with its styles and scripts."""
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    page = re.sub(r'<link rel="icon"[^>]*>', policy, _read("index.html"))
    page = re.sub(r'<a class="skip".*?</a>|<footer>.*?</footer>', "", page, flags=re.DOTALL)
    page = re.sub(
        r'<link rel="stylesheet" href="([\w.]+)">', lambda m: f"<style>{_read(m[1])}</style>", page
    )
    icon = base64.b64encode(_read("icon.svg").encode()).decode()
    page = page.replace('src="icon.svg"', f'src="data:image/svg+xml;base64,{icon}"')
    script = f"const modules = {{}};\n{_bundle('watch.js', set())}"
    return page.replace(' src="watch.js">', f">{script}")


def _bundle(name: str, there: set[str]) -> str:
    """Return a module, after those that it imports and that are not `there`, as plain script."""
    if name in there:
        return ""
    there.add(name)
    text = _read(name)
    before = "".join(_bundle(imported, there) for _, imported in _IMPORT.findall(text))
    exported = ", ".join(each for _, each in _EXPORT.findall(text))
    inside = _EXPORT.sub(r"\1", _IMPORT.sub(r'const \1 = modules["\2"];', text))
    return f'{before}modules["{name}"] = (() => {{\n{inside}\nreturn {{ {exported} }};\n}})();\n'


def _read(name: str) -> str:
    path = next(folder / name for folder in _FOLDERS if (folder / name).exists())
    return path.read_text(encoding="utf-8")


def _cell(first: str) -> Callable[[str], None]:
    """Show HTML in the output cell; return a function that shows other HTML below, in one place."""
    try:
        from IPython import display, get_ipython
    except ImportError:
        get_ipython = None
    if get_ipython is None or get_ipython() is None:
        raise UserError("watch=True needs a notebook: elsewhere give `nutgraf run --watch`")
    display.display(display.HTML(first))
    handle = display.display(display.HTML(""), display_id=True)
    return lambda page: handle.update(display.HTML(page))
