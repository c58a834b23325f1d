"""Who writes into a storage: one run at a time, whatever machine it is on.

Object stores have no locks. A file there names the holder and changes every few seconds for as long
as the holder lives. Clocks of two machines are never compared: a holder is dead when its file has
not changed for `EXPIRY` seconds of whoever waits.
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

from nutgraf.problems import Failure, Problem, UserError
from nutgraf.storage import Storage, Unreachable

logger = logging.getLogger(__name__)

LEASE = ".lease.json"
BEAT = 10.0  # seconds between two signs of life
EXPIRY = 60.0  # seconds without one until a holder counts as dead
SETTLE = 1.0  # seconds in which another one may be taking the lease too


class Lease:
    """The right to write into `storage`; `token` tells this holding of it from all others."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
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
    def held(self, own: str) -> Iterator[str]:
        """Hold the lease in the block; gives the token of who held it last, "" if nobody did.

        `own` is the token of an earlier run in the same folder, which is dead since this one runs.
        Waits for a holder that gives no sign of life, and says so. Raises UserError naming one that
        does.
        """
        before = self._free(own)
        self._write()
        time.sleep(SETTLE)
        self.check()
        ended = threading.Event()
        thread = threading.Thread(target=self._beat, args=(ended,), daemon=True)
        thread.start()
        try:
            yield before
        finally:
            ended.set()
            thread.join()
            with contextlib.suppress(Unreachable):  # then it expires
                if self._is_mine():
                    self._content["released"] = True
                    self._write()

    def check(self) -> None:
        """Raise Failure where another run has taken the lease, as one may after `EXPIRY`."""
        if not self._is_mine():
            raise Failure(
                f"storage {self.storage.uri} was taken over by {_holder(self._read())}, since this "
                "run gave no sign of life: what is here is whole, and the same command carries on "
                "from there when that run has ended"
            )

    def _free(self, own: str) -> str:
        """Wait until nobody holds it; the token of who did."""
        found = first = self._read()
        since, told = time.monotonic(), False
        while found and not found["released"] and found["token"] != own:
            if (found["token"], found["beat"]) != (first["token"], first["beat"]):
                raise UserError(
                    f"storage {self.storage.uri} is in use by {_holder(found)}: wait for it, or "
                    "give another storage"
                )
            if time.monotonic() - since > EXPIRY:
                logger.warning(f"{_holder(found)} gives no sign of life: its work is carried on")
                break
            if not told:
                logger.info(
                    f"storage {self.storage.uri} is held by {_holder(found)}: waiting "
                    f"{EXPIRY:.0f} s for a sign of life"
                )
                told = True
            time.sleep(min(1.0, EXPIRY / 10))
            found = self._read()
        return str(found["token"]) if found else ""

    def _beat(self, ended: threading.Event) -> None:
        """Give a sign of life until the block ends; what goes wrong, `check` finds too."""
        while not ended.wait(BEAT):
            with contextlib.suppress(Problem):
                if self._is_mine():
                    self._content["beat"] += 1
                    self._write()

    def _is_mine(self) -> bool:
        return self._read().get("token") == self.token

    def _read(self) -> dict[str, Any]:
        content = self.storage.read(LEASE)
        if content is None:
            return {}
        try:
            found = json.loads(content)
            _holder(found), found["token"], found["beat"], found["released"]
        except (ValueError, KeyError, TypeError) as error:
            raise Failure(
                f"{LEASE} of storage {self.storage.uri} is damaged ({error!r}): delete it there"
            ) from error
        return dict(found)

    def _write(self) -> None:
        self.storage.write(LEASE, (json.dumps(self._content) + "\n").encode())


def _holder(found: dict[str, Any]) -> str:
    if not found:
        return "somebody who deleted its lease"
    return f"process {found['process']} on {found['host']} since {found['since']}"
