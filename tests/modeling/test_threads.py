"""Compute with a number of threads, for a while."""

from __future__ import annotations

import pytest
import torch

from nutgraf.modeling.threads import using_threads


def test_afterwards_there_are_as_many_as_before_also_behind_an_error() -> None:
    before = torch.get_num_threads()
    with using_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="broken"), using_threads(before + 2):
        raise ValueError("broken")
    assert torch.get_num_threads() == before
