"""Fine-tune a small language model to summarize news, and show how good the result is.

The public names are those of `nutgraf.api`, imported when they are first used.
"""

import importlib
import logging
import os
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nutgraf.api import Failure, Summarizer, UserError, run, score, suggest_config

__all__ = ["Failure", "Summarizer", "UserError", "run", "score", "suggest_config"]

__version__ = "0.1.0"

# Before the libraries are imported: what they would say or send without being asked.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# On a CPU oneDNN keeps so many compiled products instead of 1,024, of about a megabyte each
# (docs/log.md).
COMPILED_PRODUCTS = "256"
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", COMPILED_PRODUCTS)
# bitsandbytes tries to fetch an optional CPU kernel when imported and logs that it could not.
logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)
logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each try; the last is our error
warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft)\.")


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module("nutgraf.api"), name)
    raise AttributeError(f"module 'nutgraf' has no attribute {name!r}")
