"""Write down what people change in a search: what they ask for, and what became of it.

A request is a file in `requests/` beside the folders of the trials. The search takes it up when it
next hears of a trial, and notes in its ledger, `steers.jsonl`, what it did, when and at which
evaluation. A search that is resumed or replayed follows the ledger, so its table is the same.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from nutgraf.config.types import Count
from nutgraf.core.errors import Failure, one_line
from nutgraf.core.files import write_records, write_text

LEDGER, REQUESTS = "steers.jsonl", "requests"  # in the folder of the trials


class Request(BaseModel):
    """What a person asks for: of `trial`, to stop or to continue until `examples`; or an addition.

    `values` are settings of the added trial by dotted name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    do: Literal["stop", "add", "continue"]
    trial: Count | None = None
    examples: Count | None = None
    values: dict[str, Any] = {}


@dataclass(frozen=True)
class Steer:
    """A line of the ledger: what was done with a request, or why it was `refused`.

    The trial had seen `examples` at its last `evaluation` that counted. It ends at the evaluation
    `until` (None: its last), when it has seen `until_examples`. `time` is in seconds since 1970.
    """

    id: str
    time: float
    do: str
    trial: int  # 0 if there is none
    values: Mapping[str, Any]
    evaluation: int = 0
    examples: int = 0
    until: int | None = None
    until_examples: int = 0
    refused: str = ""

    @property
    def words(self) -> str:
        """Return it as a sentence without its full stop."""
        if self.refused:
            return f"not done: {self.refused}"
        if self.do == "stop":
            return f"a person stopped trial {self.trial} after {self.examples:,} articles"
        if self.do == "continue":
            way = f"from {self.examples:,} to {self.until_examples:,} articles"
            return f"a person let trial {self.trial} go on, {way}"
        settings = ", ".join(f"{k.split('.')[-1]} {v}" for k, v in self.values.items())
        return f"a person added trial {self.trial}: {settings}"


_STEERS = TypeAdapter(list[Steer])


class Ledger:
    """The steers of the search whose trials are in `out`, and the requests that wait there."""

    def __init__(self, out: Path) -> None:
        """Read the ledger, and let people ask from now on. Raises Failure if it is damaged."""
        self._path, self._requests = out / LEDGER, out / REQUESTS
        self.steers = read_steers(self._path)
        self._requests.mkdir(parents=True, exist_ok=True)

    def requests(self) -> Iterator[tuple[str, Request | None]]:
        """Yield what waits, with its id, in the order in which it was asked for.

        A file that is no request is None. Each is deleted when the next one is asked for.
        """
        for path in sorted(self._requests.glob("*.json")):
            if all(steer.id != path.stem for steer in self.steers):
                yield path.stem, _read_request(path)
            path.unlink()

    def add(self, steer: Steer) -> None:
        """Write a line; it is on the disk when this returns."""
        write_records(self._path, map(asdict, [*self.steers, steer]))
        self.steers = [*self.steers, steer]

    def close(self) -> None:
        """Let nobody ask any more."""
        shutil.rmtree(self._requests, ignore_errors=True)


def ask(out: Path, request: Request) -> str:
    """Ask the search whose trials are in `out`; return the id of the request."""
    name = f"{time.time_ns()}-{secrets.token_hex(4)}"
    write_text(out / REQUESTS / f"{name}.json", request.model_dump_json())
    return name


def read_steers(path: Path) -> list[Steer]:
    """Return the lines of a ledger; none if there is no file. Raises Failure if it is damaged."""
    if not path.exists():
        return []
    try:
        return parse_steers(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Failure(
            f"{path} is damaged ({one_line(str(error), 100)}): delete it, and the search goes on "
            "as if nobody had steered it"
        ) from error


def parse_steers(text: str) -> list[Steer]:
    """Return the lines of a ledger. Raises ValueError if one is damaged."""
    return _STEERS.validate_python([json.loads(line) for line in text.split("\n") if line])


def _read_request(path: Path) -> Request | None:
    try:
        return Request.model_validate_json(path.read_bytes())
    except ValidationError:
        return None
