"""Show pairs of summaries to judges who do not know whose they are, and keep what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nutgraf.core.errors import Failure, UserError
from nutgraf.core.files import Journal
from nutgraf.data.sentences import sentence_spans
from nutgraf.judging.pair import Item, Pair
from nutgraf.judging.record import FOLDER, VERDICTS, Click, judge_name, open_record
from nutgraf.judging.standing import Standing, is_settled, standing

_MAX_SECONDS = 86_400.0  # longer readings were no readings
_MAX_SPANS = 200


class Session:
    """Judgements of one pair of systems, in the run folder `run`. One process may write them."""

    def __init__(self, pair: Pair, run: Path) -> None:
        self.pair = pair
        self._folder = run / FOLDER
        self._records: dict[str, Journal] = {}

    def view(self, judge: str) -> dict[str, Any]:
        """Return the next article with two summaries, and how far the judge is.

        Nothing in it says whose summary is whose, nor who is ahead. `id` is None at the end.
        """
        judge = judge_name(judge)
        clicks = self._clicks(judge)
        judged = {click["id"] for click in clicks}
        item = next((i for i in self.pair.items.values() if i.id not in judged), None)
        shown: dict[str, Any] = {
            "judge": judge,
            "id": item and item.id,
            "judged": len(clicks),
            "articles": len(self.pair.items),
            "same": self.pair.same,
            "settled": is_settled(clicks, self.pair.systems),
        }
        if item:
            left, right = self._sides(judge, item)
            shown |= {"article": item.article, "left": _shown(left), "right": _shown(right)}
        return shown

    def click(
        self,
        judge: str,
        article: str,
        verdict: str,
        seconds: float,
        wrong: Sequence[tuple[str, int, int]] = (),
        seen: bool = False,
    ) -> dict[str, Any]:
        """Save a verdict and return the next view.

        Args:
            judge: Who judges.
            article: The id of the article that was shown last.
            verdict: One of VERDICTS.
            seconds: How long it was read.
            wrong: Side, start and end of what is wrong in a summary, in characters.
            seen: Whether the result so far was open meanwhile.

        Raises:
            UserError: Another article is next, or a value cannot be.
        """
        now = self.view(judge)
        judge = now["judge"]
        if now["id"] != article:
            raise UserError(
                f"{article[:80]!r} is not the next article of {judge}, who may be judging in "
                "another window: load the page again"
            )
        if verdict not in VERDICTS:
            raise UserError(f"verdict is {verdict[:20]!r}: give one of {', '.join(VERDICTS)}")
        if not (math.isfinite(seconds) and 0 <= seconds <= _MAX_SECONDS):
            raise UserError(f"seconds is {seconds:g}: give 0 to {_MAX_SECONDS:,.0f}")
        item = self.pair.items[article]
        left = self.pair.left(judge, item)
        system = {"left": left, "right": self.pair.other(left)}
        for side, start, end in wrong:
            if side not in system or not 0 <= start < end <= len(now[side]["text"]):
                raise UserError(f"{side[:20]} {start} to {end} is no part of a summary shown")
        if len(wrong) > _MAX_SPANS:
            raise UserError(f"{len(wrong)} parts are marked as wrong: mark at most {_MAX_SPANS}")
        spans = [{"system": system[side], "start": s, "end": e} for side, s, e in wrong]
        self._add(
            judge, article, kind="click", left=left, verdict=verdict, seconds=round(seconds, 1),
            wrong=spans, seen=seen, texts=self.pair.texts[article],
        )  # fmt: skip
        return self.view(judge)

    def undo(self, judge: str) -> dict[str, Any]:
        """Take the judge's last click back and return that view. Raises UserError without one."""
        judge = judge_name(judge)
        clicks = self._clicks(judge)
        if not clicks:
            raise UserError(f"{judge} has nothing to take back")
        self._add(judge, clicks[-1]["id"], kind="undo")
        return self.view(judge)

    def result(self, judge: str) -> Standing:
        """Return what the judge's clicks show so far."""
        return standing(self._clicks(judge_name(judge)), self.pair.systems)

    def _clicks(self, judge: str) -> list[Click]:
        return self.pair.clicks(self._record(judge).rows)[0]

    def _record(self, judge: str) -> Journal:
        if judge not in self._records:
            self._records[judge] = open_record(self._folder / f"{judge}.jsonl")
        return self._records[judge]

    def _add(self, judge: str, article: str, **more: Any) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        row = {"kind": more.pop("kind"), "time": time, "id": article, "systems": self.pair.systems}
        try:
            self._record(judge).add([{**row, **more}])
        except OSError as error:
            del self._records[judge]  # half a line may be there: it is dropped at the next look
            raise Failure(
                f"{error.filename} was not written ({error.strerror}): free space, judge again"
            ) from error

    def _sides(self, judge: str, item: Item) -> tuple[str, str]:
        left = self.pair.left(judge, item)
        return self.pair.summary(item, left), self.pair.summary(item, self.pair.other(left))


def _shown(summary: str) -> dict[str, Any]:
    spans = [{"start": start, "end": end} for _, start, end in sentence_spans(summary)]
    return {"text": summary, "sentences": spans}
