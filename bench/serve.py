"""How a server holds out: one client, then many at once, on loopback, with the pocket model.

`nutgraf serve` runs as a process of its own. Each client asks for one summary after another, of
articles of the embedded newswire, and comes back after a 429 when it is told to. The server's
resident memory is read every second while the many ask. Both the clients and the server have to
share the machine's cores. It ends with status 1 where an answer is neither 200 nor 429, where many
get less than 3 times the summaries of one, or where memory grows by more than a tenth after the
first quarter.

    python bench/serve.py [--model runs/pocket] [--clients 64] [--seconds 60]
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import math
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nutgraf.pocket import newswire

TIMES = 3  # to reach, over one client
GROWTH = 1.1  # at most
ARTICLES = 400


class Load:
    """Clients that ask without a pause; what came back and how long each answer took."""

    def __init__(self, address: str) -> None:
        self._address = urlsplit(address).netloc
        stories = newswire.stories("test", ARTICLES, seed=7)
        self._bodies = itertools.cycle([json.dumps({"articles": [s.article]}) for s in stories])
        self._lock = threading.Lock()
        self.statuses: Counter[int] = Counter()
        self.seconds: list[float] = []

    def run(self, clients: int, seconds: float) -> float:
        """Answers of 200 a second."""
        started = time.perf_counter()
        threads = [
            threading.Thread(target=self._ask, args=(started + seconds,)) for _ in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(self.seconds) / (time.perf_counter() - started)

    def _ask(self, until: float) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=120)
        while time.perf_counter() < until:
            with self._lock:
                body = next(self._bodies)
            started = time.perf_counter()
            connection.request("POST", "/summaries", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            with self._lock:
                self.statuses[answer.status] += 1
                if answer.status == 200:
                    self.seconds.append(time.perf_counter() - started)
            if answer.status == 429:
                wait = float(answer.headers["Retry-After"])
                time.sleep(max(0.0, min(wait, until - time.perf_counter())))
        connection.close()


class Memory:
    """The resident memory of a process in MB, second by second, while the block lasts."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._over = threading.Event()
        self.seen: list[float] = []
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(1):
            line = next(x for x in self._status.read_text().splitlines() if x.startswith("VmRSS"))
            self.seen.append(int(line.split()[1]) / 1024)


def served(model: Path) -> Iterator[tuple[str, int]]:
    """Address and process of a server, which ends with the loop."""
    command = [sys.executable, "-m", "nutgraf", "serve", "--model", str(model), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            address = server.stdout.readline().strip()
            if not address:  # it has said why
                sys.exit(1)
            yield address, server.pid
        finally:
            server.send_signal(signal.SIGINT)


def percentile(values: list[float], share: int) -> float:
    """The nearest rank; there has to be a value."""
    return sorted(values)[math.ceil(share / 100 * len(values)) - 1]


def figures(load: Load, rate: float) -> dict[str, Any]:
    return {
        "summaries": len(load.seconds),
        "per_second": round(rate, 2),
        "p50": round(percentile(load.seconds, 50), 2),
        "p95": round(percentile(load.seconds, 95), 2),
        "statuses": {str(status): n for status, n in sorted(load.statuses.items())},
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("runs/pocket"))
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    for address, pid in served(options.model):
        Load(address).run(4, 3)  # so that nothing is done for the first time
        load = Load(address)
        one = figures(load, load.run(1, options.seconds / 3))
        load = Load(address)
        with Memory(pid) as memory:
            many = figures(load, load.run(options.clients, options.seconds))
    settled = memory.seen[len(memory.seen) // 4 :]
    growth = max(settled[-5:]) / max(settled[:5])
    result = {
        "clients": options.clients,
        "seconds": options.seconds,
        "one": one,
        "many": many,
        "times": round(many["per_second"] / one["per_second"], 2),
        "memory_mb": {"settled": round(max(settled[:5])), "end": round(max(settled[-5:]))},
        "memory_growth": round(growth, 3),
    }
    for name, told in (("one client", one), (f"{options.clients} clients", many)):
        print(
            f"{name:11} {told['per_second']:6.2f} summaries/s   p50 {told['p50']:5.2f} s   "
            f"p95 {told['p95']:5.2f} s   {told['statuses']}"
        )
    good = set(many["statuses"]) | set(one["statuses"]) <= {"200", "429"}
    passed = good and result["times"] >= TIMES and growth <= GROWTH
    print(json.dumps({**result, "passed": passed}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
