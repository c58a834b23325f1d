"""Which trials of a search are stopped early: successive halving, judged again at every report.

ASHA: Li et al. 2020 (arXiv:1810.05934). Ray's own scheduler of that name judges a trial once a
rung, against the trials that were there before it, so that of two trials side by side the worse one
runs to its end where it happens to report a moment earlier. Here the same cut is taken at each
report, and a trial reports its latest evaluation again and again (tuner.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.tune.schedulers import FIFOScheduler, TrialScheduler


class Halving(FIFOScheduler):
    """Rungs at `grace`, `grace * factor`, `grace * factor**2` … evaluations.

    A trial goes on while its `metric` (lower is better) at the highest rung that it has passed is
    among the best 1 / `factor` there. The best of the highest rung is therefore never stopped; nor
    is a trial at its last evaluation, where nothing is left to save.
    """

    def __init__(self, metric: str, grace: int, factor: int) -> None:
        super().__init__()
        self.judged_by, self.grace, self.factor = metric, grace, factor
        self.rungs: dict[int, dict[str, float]] = {}  # evaluation: trial: metric

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """STOP or CONTINUE; `result` has the metric, the number of the `evaluation`, and `last`."""
        evaluation = result["evaluation"]
        if self._is_rung(evaluation):
            self.rungs.setdefault(evaluation, {})[trial.trial_id] = result[self.judged_by]
        passed = [rung for rung in sorted(self.rungs) if trial.trial_id in self.rungs[rung]]
        if not passed or result["last"]:
            return TrialScheduler.CONTINUE
        rung = self.rungs[passed[-1]]
        cut = np.nanpercentile(list(rung.values()), 100 / self.factor)
        good = rung[trial.trial_id] <= cut
        return TrialScheduler.CONTINUE if good else TrialScheduler.STOP

    def debug_string(self) -> str:
        """One line for Ray's log."""
        return f"successive halving, rungs {sorted(self.rungs)}"

    def _is_rung(self, evaluation: int) -> bool:
        rung = self.grace
        while rung < evaluation:
            rung *= self.factor
        return rung == evaluation
