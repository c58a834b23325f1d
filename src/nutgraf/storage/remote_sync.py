"""Keep a run folder and its copy in a storage in step while a study runs."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nutgraf.core.errors import Failure, NutgrafError
from nutgraf.storage.remote_copy import RemoteCopy
from nutgraf.storage.remote_files import Unreachable
from nutgraf.storage.remote_lease import Lease

logger = logging.getLogger(__name__)

EVERY = 30.0  # seconds between two uploads of what is new
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # seconds before a storage is tried again
_PASSES = 5  # over a folder that changes; then what changes is left to the next upload


@contextlib.contextmanager
def synced(uri: str, folder: Path) -> Iterator[Callable[[], None]]:
    """Keep a copy of `folder` at `uri` in the block; yield a function that uploads all at once.

    At the start, fetch what the storage has. If another machine wrote there since, the storage
    wins: artefacts that differ in the folder, finished or not, are replaced. Otherwise the folder
    is ahead, and only artefacts that it lacks are fetched.

    Raises:
        UserError: Another run holds the storage, or it holds another study.
        Failure: The storage is lost to another run, or stays unreachable at the end of a stage.
    """
    copy = RemoteCopy(uri, folder)
    lease = Lease(copy.files)
    with lease.acquired(copy.token) as previous:
        copy.refuse_another_study()
        copy.pull(over=not previous or previous != copy.token)
        copy.save_token(lease.token)
        uploads = _Uploads(copy, lease)
        try:
            yield uploads.finish
            uploads.finish()
        except BaseException:
            try:
                uploads.push()
            except (NutgrafError, OSError) as error:
                logger.warning(f"what is new here is not in the storage: {error}")
            raise
        finally:
            uploads.end()


class _Uploads:
    """Uploads of what is new: every 30 seconds by a thread, and on demand; one at a time."""

    def __init__(self, copy: RemoteCopy, lease: Lease) -> None:
        self.copy, self.lease = copy, lease
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._warned = False  # that the storage does not answer
        self._thread = threading.Thread(target=self._repeat, daemon=True)
        self._thread.start()

    def push(self) -> bool:
        """Upload what is new. Return False if some of it kept changing while it was copied."""
        with self._lock:
            self.lease.check()
            for _ in range(_PASSES):
                if self.copy.push():
                    return True
                time.sleep(0.1)
        return False

    def finish(self) -> None:
        """Upload all that is in the folder. Raises Failure if the storage stays away."""
        for wait in (*WAITS, None):
            try:
                if not self.push():
                    logger.warning(
                        f"the storage lacks an artefact: its files in {self.copy.local} are not "
                        "as they were made, and the next run makes it again"
                    )
                return
            except Unreachable as error:
                if wait is None:
                    raise Failure(
                        f"{error}; what was made is whole in {self.copy.local}, and the same "
                        "command carries on from there"
                    ) from error
                self._warn(error)
                time.sleep(wait)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _repeat(self) -> None:
        while not self._ended.wait(EVERY):
            try:
                self.push()
                self._warned = False
            except (Unreachable, OSError) as error:
                self._warn(error)
            except NutgrafError as error:
                logger.warning(
                    f"nothing more goes into the storage, and the stage is the last: {error}"
                )
                return  # `finish` raises it

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            logger.warning(f"{error}; the work goes on here, and the storage is tried again")
        self._warned = True
