"""A study kept in a storage while it runs: fetched at its start, put there as it is made."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nutgraf.lease import Lease
from nutgraf.mirror import Mirror
from nutgraf.problems import Failure, Problem
from nutgraf.push import version
from nutgraf.runfolder import MANIFESTS
from nutgraf.storage import Unreachable

logger = logging.getLogger(__name__)

EVERY = 30.0  # seconds between two passes over half-made work
LOOK = 1.0  # seconds between two looks for a new artefact
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # seconds before a storage is tried again
_PASSES = 5  # then what somebody goes on writing is left to the next time


@contextlib.contextmanager
def kept(uri: str, folder: Path) -> Iterator[Callable[[], None]]:
    """Keep `folder` in the storage at `uri` within the block; gives what waits until all is there.

    At the start what the storage has is fetched. Where another machine wrote there since, it wins:
    artefacts and half-made work that differ here are replaced. Else this folder is ahead, and only
    artefacts that are missing here are fetched. Raises UserError where another run holds it.
    """
    mirror = Mirror(uri, folder)
    lease = Lease(mirror.storage)
    with lease.held(mirror.lease) as before:
        mirror.refuse_another_study()
        mirror.pull(over=not before or before != mirror.lease)
        mirror.begin(lease.token)
        keeper = _Keeper(mirror, lease)
        try:
            yield keeper.sync
            keeper.sync()
        except BaseException:
            keeper.save()
            raise
        finally:
            keeper.end()


class _Keeper:
    """Pushes now and then, all in one thread: a Ctrl-C never cuts a file that is on its way."""

    def __init__(self, mirror: Mirror, lease: Lease) -> None:
        self.mirror, self.lease = mirror, lease
        self._pool = ThreadPoolExecutor(1)
        self._ended = threading.Event()
        self._told = False  # that the storage is away
        self._clock = threading.Thread(target=self._tick, daemon=True)
        self._clock.start()

    def sync(self) -> None:
        """Put all that is here into the storage. Raises Failure where that cannot be done."""
        self._pool.submit(self._insist).result()

    def save(self) -> None:
        """Try once to put there what is here, before an error or a stop ends the run."""
        self._ended.set()
        try:
            self._pool.submit(self._push).result()
        except (Problem, OSError) as error:
            logger.warning(f"what is new here is not in the storage: {error}")

    def end(self) -> None:
        self._ended.set()
        self._clock.join()
        self._pool.shutdown()

    def _push(self) -> None:
        self.lease.check()
        for _ in range(_PASSES):
            if self.mirror.push():
                break
            time.sleep(0.1)

    def _insist(self) -> None:
        for wait in WAITS:
            try:
                return self._push()
            except Unreachable as error:
                self._tell(error)
                if self._ended.wait(wait):
                    break
        try:
            self._push()
        except Unreachable as error:
            raise Failure(
                f"{error}; what was made is whole in {self.mirror.local}, and the same command "
                "carries on from there"
            ) from error

    def _tick(self) -> None:
        """A pass where an artefact was made, and every `EVERY` seconds for half-made work."""
        manifests = self.mirror.local / MANIFESTS
        seen, pushed = version(manifests), time.monotonic()
        while not self._ended.wait(LOOK):
            now = version(manifests)
            if now == seen and time.monotonic() - pushed < EVERY:
                continue
            try:
                self._pool.submit(self._pass).result()
                seen, self._told = now, False
            except (Unreachable, OSError) as error:
                self._tell(error)
            except Problem as error:
                logger.warning(
                    f"nothing more goes into the storage, and the stage is the last: {error}"
                )
                return  # `sync` raises it
            pushed = time.monotonic()

    def _pass(self) -> None:
        self.lease.check()
        self.mirror.push()

    def _tell(self, error: Exception) -> None:
        if not self._told:
            logger.warning(f"{error}; the work goes on here, and the storage is tried again")
        self._told = True
