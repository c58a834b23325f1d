"""Ray is started again if a busy machine gave it too little time."""

from __future__ import annotations

from typing import Any

import pytest

from nutgraf.core.errors import Failure
from nutgraf.parallel import ray_session


@pytest.mark.parametrize("late", [0, 2, 3])
def test_a_node_that_started_too_slowly_is_started_again(
    monkeypatch: pytest.MonkeyPatch, late: int
) -> None:
    starts: list[str] = []

    def init(address: str, **options: Any) -> None:
        starts.append(address)
        if len(starts) <= late:
            raise Exception("The current node timed out during startup. This could happen because")

    monkeypatch.setattr(ray_session.ray, "init", init)
    monkeypatch.setattr(ray_session.ray, "shutdown", lambda: None)
    if late < 3:
        with ray_session.local_ray(1, 0):
            assert starts == ["local"] * (late + 1)
        return
    with pytest.raises(Failure, match="timed out during startup"), ray_session.local_ray(1, 0):
        pass
    assert starts == ["local"] * 3
