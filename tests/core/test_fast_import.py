"""Loading leaves the collector of garbage as it was."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

import pytest

from nutgraf.core import fast_import
from nutgraf.core.fast_import import fast_imports


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    before = gc.isenabled()
    yield
    gc.unfreeze()
    (gc.enable if before else gc.disable)()


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_the_collector_is_off_in_the_block_and_then_as_before(on: bool, fails: bool) -> None:
    (gc.enable if on else gc.disable)()
    with contextlib.suppress(ModuleNotFoundError), fast_imports():
        assert not gc.isenabled()
        if fails:
            raise ModuleNotFoundError
    assert gc.isenabled() is on


def test_only_what_lives_at_the_first_loading_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, fast_import.LOADED, raising=False)
    gc.unfreeze()
    with fast_imports():
        pass
    assert gc.get_freeze_count() > 0
    gc.unfreeze()
    monkeypatch.setitem(sys.modules, fast_import.LOADED, sys)
    with fast_imports():
        pass
    assert gc.get_freeze_count() == 0
