"""Let one run at a time write into a storage, whatever machine it is on.

Object stores have no locks. A file there names the holder and changes every few seconds for as long
as the holder lives. Clocks of two machines are never compared: a holder is dead if its file has not
changed for `EXPIRY` seconds of whoever waits.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from nutgraf.core.errors import Failure, NutgrafError, UserError
from nutgraf.storage.remote_files import RemoteFiles, Unreachable

logger = logging.getLogger(__name__)

LEASE = ".lease.json"
BEAT = 10.0  # seconds between two signs of life
EXPIRY = 60.0  # seconds without one until a holder counts as dead
SETTLE = 1.0  # seconds in which another run may be taking the lease too


class Lease:
    """The right of this process to write into `files`; `token` identifies it."""

    def __init__(self, files: RemoteFiles) -> None:
        self.files = files
        self.token = uuid.uuid4().hex
        self._content: dict[str, Any] = {
            "token": self.token,
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "beat": 0,
            "released": False,
        }

    @contextlib.contextmanager
    def acquired(self, own: str) -> Iterator[str]:
        """Hold the lease in the block; yield the token of the last holder, "" if there was none.

        `own` is the token of an earlier run in the same folder, which is dead since this one runs.
        Waits `EXPIRY` seconds for a holder that gives no sign of life. Raises UserError naming one
        that does.
        """
        previous = self._wait_until_free(own)
        ended = threading.Event()
        thread = threading.Thread(target=self._beat, args=(ended,), daemon=True)
        try:
            self._write()
            time.sleep(SETTLE)
            self.check()
            thread.start()
            yield previous
        finally:
            ended.set()
            if thread.ident:
                thread.join()
            with contextlib.suppress(Unreachable):  # then it expires
                self._update(released=True)

    def check(self) -> None:
        """Raise Failure if another run has taken the lease, as one may after `EXPIRY`."""
        lease = self._read()
        if lease.get("token") != self.token:
            raise Failure(
                f"storage {self.files.uri} was taken over by {_holder(lease)}, since this "
                "run gave no sign of life: what is here is whole, and the same command carries on "
                "from there when that run has ended"
            )

    def _wait_until_free(self, own: str) -> str:
        """Wait until nobody holds the lease; return the token of the last holder."""
        lease = first = self._read()
        started = time.monotonic()
        while lease and not lease["released"] and lease["token"] != own:
            if lease != first:
                raise UserError(
                    f"storage {self.files.uri} is in use by {_holder(lease)}: wait for it, or "
                    "give another storage"
                )
            if time.monotonic() - started > EXPIRY:
                logger.warning(f"{_holder(lease)} gives no sign of life: its work is carried on")
                break
            if lease is first:
                logger.info(
                    f"storage {self.files.uri} is held by {_holder(lease)}: waiting "
                    f"{EXPIRY:.0f} s for a sign of life"
                )
            time.sleep(min(1.0, EXPIRY / 10))
            lease = self._read()
        return str(lease.get("token", ""))

    def _beat(self, ended: threading.Event) -> None:
        """Give a sign of life until the block ends; `check` raises what goes wrong."""
        while not ended.wait(BEAT):
            with contextlib.suppress(NutgrafError):
                self._update(beat=self._content["beat"] + 1)

    def _update(self, **changes: Any) -> None:
        if self._read().get("token") == self.token:
            self._content |= changes
            self._write()

    def _read(self) -> dict[str, Any]:
        content = self.files.read(LEASE)
        if content is None:
            return {}
        try:
            lease = json.loads(content)
            return {key: lease[key] for key in self._content}
        except (ValueError, KeyError, TypeError) as error:
            raise Failure(
                f"{LEASE} of storage {self.files.uri} is damaged ({error!r}): delete it there"
            ) from error

    def _write(self) -> None:
        self.files.write(LEASE, (json.dumps(self._content) + "\n").encode())


def _holder(lease: dict[str, Any]) -> str:
    if not lease:
        return "somebody who deleted its lease"
    return f"process {lease['process']} on {lease['host']} since {lease['since']}"
