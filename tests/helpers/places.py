"""Where the project and its developers' real data lie."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
SHARED = ROOT.parent / "shared" / "data"
