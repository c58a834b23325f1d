"""A run folder and its copy in a storage, kept in step while a study runs."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nutgraf.core.errors import Failure, Problem
from nutgraf.storage.remote_copy import RemoteCopy
from nutgraf.storage.remote_files import Unreachable
from nutgraf.storage.remote_lease import Lease

logger = logging.getLogger(__name__)

EVERY = 30.0  # seconds between two uploads of what is new
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # seconds before a storage is tried again
_PASSES = 5  # over a folder that changes; then what changes is left to the next upload


@contextlib.contextmanager
def synced(uri: str, folder: Path) -> Iterator[Callable[[], None]]:
    """Keep a copy of `folder` at `uri` within the block; yield what waits until all is there.

    At the start what the storage has is fetched. If another machine wrote there since, it wins:
    artefacts that differ here, finished or not, are replaced. Else this folder is ahead, and only
    artefacts that are missing here are fetched. Raises UserError if another run holds the storage.
    """
    copy = RemoteCopy(uri, folder)
    lease = Lease(copy.files)
    with lease.held(copy.lease) as before:
        copy.refuse_another_study()
        copy.pull(over=not before or before != copy.lease)
        copy.begin(lease.token)
        uploads = _Uploads(copy, lease)
        try:
            yield uploads.finish
            uploads.finish()
        except BaseException:
            uploads.try_once()
            raise
        finally:
            uploads.end()


class _Uploads:
    """Uploads in a thread of their own, so that a Ctrl-C never cuts a file on its way."""

    def __init__(self, copy: RemoteCopy, lease: Lease) -> None:
        self.copy, self.lease = copy, lease
        self._thread = ThreadPoolExecutor(1)
        self._ended = threading.Event()
        self._warned = False  # that the storage is away
        self._clock = threading.Thread(target=self._repeat, daemon=True)
        self._clock.start()

    def finish(self) -> None:
        """Upload all that is here. Raises Failure if the storage stays away."""
        self._thread.submit(self._insist).result()

    def try_once(self) -> None:
        """Try to upload what is here, before an error or a stop ends the run."""
        self._ended.set()
        try:
            self._thread.submit(self._push).result()
        except (Problem, OSError) as error:
            logger.warning(f"what is new here is not in the storage: {error}")

    def end(self) -> None:
        self._ended.set()
        self._clock.join()
        self._thread.shutdown()

    def _push(self, passes: int = _PASSES) -> None:
        self.lease.check()
        while not self.copy.push() and (passes := passes - 1):
            time.sleep(0.1)

    def _insist(self) -> None:
        for wait in (*WAITS, None):
            try:
                return self._push()
            except Unreachable as error:
                if wait is None or self._ended.is_set():
                    raise Failure(
                        f"{error}; what was made is whole in {self.copy.local}, and the same "
                        "command carries on from there"
                    ) from error
                self._warn(error)
                self._ended.wait(wait)

    def _repeat(self) -> None:
        while not self._ended.wait(EVERY):
            try:
                self._thread.submit(self._push).result()
                self._warned = False
            except (Unreachable, OSError) as error:
                self._warn(error)
            except Problem as error:
                logger.warning(
                    f"nothing more goes into the storage, and the stage is the last: {error}"
                )
                return  # `finish` raises it

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            logger.warning(f"{error}; the work goes on here, and the storage is tried again")
        self._warned = True
