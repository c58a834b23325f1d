"""Loading leaves the collector of garbage as it was."""

from __future__ import annotations

import contextlib
import gc

import pytest

from nutgraf.loading import quickly


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_the_collector_is_off_in_the_block_and_then_as_before(on: bool, fails: bool) -> None:
    before, frozen = gc.isenabled(), gc.get_freeze_count()
    (gc.enable if on else gc.disable)()
    try:
        with contextlib.suppress(ModuleNotFoundError), quickly():
            assert not gc.isenabled()
            if fails:
                raise ModuleNotFoundError
        assert gc.isenabled() is on
        assert gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()
        (gc.enable if before else gc.disable)()
