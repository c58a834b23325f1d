"""Debian's Chromium without a window, driven through its DevTools protocol over a pipe.

The protocol: https://chromedevtools.github.io/devtools-protocol/. Messages are JSON, each ended by
a zero byte; the browser reads them from its file 3 and writes answers and events to its file 4.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# What sticks out of the page to the right, unless it is in a box that scrolls by itself.
STICKING_OUT = """
[...document.querySelectorAll('body *')]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, svg, pre'))
  .map(e => e.outerHTML.slice(0, 120))
"""
CHROMIUM = Path("/usr/bin/chromium")
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --disable-dev-shm-usage "
    "--remote-debugging-pipe"
).split()
PATIENCE = 60  # seconds for one answer, on a machine that is busy with other work


def pale(selector: str) -> str:
    """A script for the elements whose text stands out too little from the ground (WCAG 2 AA)."""
    return (
        """
(() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => {
    const here = parts(getComputedStyle(e).backgroundColor);
    return here.length === 3 || here[3] === 1 ? here : ground(e.parentElement);
  };
  return [...document.querySelectorAll('SELECTOR')].map(e => {
    const [a, b] = [light(parts(getComputedStyle(e).color)), light(ground(e))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 80)];
  }).filter(([contrast]) => contrast < 4.5);
})()
"""
    ).replace("SELECTOR", selector)


class Browser:
    """One page of a browser, and every event that it has told since it was opened."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = to, back
        self._unread = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The browser's answer. Raises RuntimeError for its error, TimeoutError for none."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._receive(method)).get("id") != self._number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, page: Path | str, width: int, scheme: str, height: int = 900) -> None:
        """Load a file or address, `width` pixels wide, for who prefers `scheme`: light or dark."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **metrics)
        wish = {"name": "prefers-color-scheme", "value": scheme}
        self.send("Emulation.setScrollbarsHidden", hidden=True)
        self.send("Emulation.setEmulatedMedia", features=[wish])
        self.events.clear()
        self.send("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        while not self.told("Page.loadEventFired"):
            self.events.append(self._receive("Page.loadEventFired"))
        self.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited. Raises RuntimeError where it throws."""
        answer = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    @contextlib.contextmanager
    def inside(self) -> Iterator[Callable[[str], Any]]:
        """Speak to the page's frame, which is sandboxed and so a page of its own.

        Yields a function that runs a script outside of it.
        """
        targets = self.send("Target.getTargets")["targetInfos"]
        (target,) = (each["targetId"] for each in targets if each["type"] == "iframe")
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        page, frame = self._session, attached["sessionId"]

        def run_outside(script: str) -> Any:
            self._session = page
            try:
                return self.run(script)
            finally:
                self._session = frame

        self._session = frame
        try:
            self.send("Runtime.enable")
            yield run_outside
        finally:
            self._session = page
            self.send("Target.detachFromTarget", sessionId=frame)

    def told(self, *methods: str) -> list[dict[str, Any]]:
        """Parameters of the events of these names since the page was opened."""
        return [event["params"] for event in self.events if event.get("method") in methods]

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        shot = self.send(
            "Page.captureScreenshot", captureBeyondViewport=True, clip={**size, "scale": 1}
        )
        path.write_bytes(base64.b64decode(shot["data"]))

    def _receive(self, waiting_for: str) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._back], [], [], max(0, until - time.monotonic()))
            if not ready:
                raise TimeoutError(f"{waiting_for}: no answer in {PATIENCE} s")
            piece = os.read(self._back, 2**20)
            if not piece:
                raise RuntimeError(f"the browser has ended, before {waiting_for}")
            self._unread += piece
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile folder; it and all its processes end with the block."""
    read_there, to = os.pipe()
    back, write_there = os.pipe()
    command = [str(CHROMIUM), *_FLAGS, f"--user-data-dir={profile}"]
    # bash moves the two ends to the file numbers at which the browser looks for them.
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{read_there} 4>&{write_there}', "bash", *command],
        pass_fds=(read_there, write_there),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(read_there)
    os.close(write_there)
    try:
        yield Browser(to, back)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(to)
        os.close(back)
