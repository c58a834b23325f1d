"""Define every setting of a study, typed."""

from nutgraf.config.cluster import RayConfig
from nutgraf.config.data import DataConfig, PromptConfig
from nutgraf.config.evaluation import GenerateConfig, RivalConfig, ScoreConfig
from nutgraf.config.search import SearchConfig
from nutgraf.config.study import Config
from nutgraf.config.training import LoraSettings, ModelConfig, TrackingConfig, TrainConfig

__all__ = [
    "Config",
    "DataConfig",
    "GenerateConfig",
    "LoraSettings",
    "ModelConfig",
    "PromptConfig",
    "RayConfig",
    "RivalConfig",
    "ScoreConfig",
    "SearchConfig",
    "TrackingConfig",
    "TrainConfig",
]
