"""What a model writes while it is trained: it is for people, and a training does not need it."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from helpers import little

from nutgraf.config import ModelConfig
from nutgraf.modeling.load import Device, load_tokenizer
from nutgraf.modeling.losses import DeviceMemoryError
from nutgraf.training import samples
from nutgraf.training.history import History, Samples


def test_without_memory_for_samples_a_training_goes_on_without_them(
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object) -> None:
        raise DeviceMemoryError("no memory on the device for 2 rows of 200 tokens")

    monkeypatch.setattr(samples, "generate_batch", full)
    config = ModelConfig(base=str(tiny_base), dtype="fp32", device="cpu")
    job = little.job(config, little.SETTINGS.model_copy(update={"samples": 2}), tmp_path / "a")
    history, device = History(batch=8), Device("cpu", torch.float32)
    with caplog.at_level("WARNING", "nutgraf"):
        samples.add_samples(Mock(), load_tokenizer(config), job, device, history)
    assert history.samples == Samples()
    assert caplog.messages == [
        "train.samples 2: no memory on the device to write so many; a training needs none"
    ]
