"""Write summaries by llama.cpp, which computes with the 4 or 8 bits of a GGUF file on a CPU.

Its server, in this process, gets the token ids of a prompt and of what was written. It returns a
few tokens more, which are checked here by the rules of the other engine. If a rule forbids
something, and for candidates, it returns the likeliest next tokens, of which one is taken here. The
server keeps what it has read.
"""

from __future__ import annotations

import importlib.util
import logging
import queue
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from nutgraf.config import GenerateConfig
from nutgraf.config.systems import EngineName
from nutgraf.core.errors import Failure, UserError
from nutgraf.generation.decode_loop import NUCLEUS, OnToken, Sampling
from nutgraf.generation.decoding import Candidates, cut_at_end
from nutgraf.generation.rules import rules_for
from nutgraf.modeling.base_files import is_gguf
from nutgraf.modeling.load import Device, choose_device, end_tokens, load_architecture
from nutgraf.modeling.saved_model import SavedModel

logger = logging.getLogger(__name__)

INSTALL = "pip install 'nutgraf[llama]'"
ROWS = 8  # written together, of one reading of the weights a step (docs/benchmarks.md)
AHEAD = 8  # tokens that it writes before they are checked
_CPU = Device("cpu", torch.float32)  # of the rules


def uses_llama_cpp(saved: SavedModel, engine: EngineName = "auto") -> bool:
    """Return whether llama.cpp writes a model's summaries.

    `auto` takes it for a GGUF file, if it is installed, on a CPU that has no bf16: with bf16
    transformers is as fast, and faster with several articles (docs/benchmarks.md). Raises UserError
    if it is asked for and cannot write them.
    """
    if engine == "transformers":
        return False
    reason = ""
    if saved.adapter or not is_gguf(saved.model.base):
        reason = f"{saved.folder} is no GGUF file: `nutgraf export --format gguf` writes one"
    elif importlib.util.find_spec("xllamacpp") is None:
        reason = f"it is not installed: `{INSTALL}`"
    elif choose_device(saved.model).name != "cpu":
        reason = "model.device is a GPU: transformers is for those"
    elif engine == "auto" and choose_device(saved.model).dtype == torch.bfloat16:
        reason = "transformers is at least as fast in bf16"
    elif (beams := saved.generate.num_beams) > 1:
        reason = f"generate.num_beams is {beams}, for which it has no counterpart"
        if engine == "auto":
            logger.warning(f"llama.cpp is not used: {reason}; transformers writes the summaries")
    if reason and engine == "llama.cpp":
        raise UserError(f"--engine is llama.cpp: {reason}")
    return not reason


class LlamaCpp:
    """A GGUF file that llama.cpp has loaded. One thread may use it at a time."""

    def __init__(
        self, saved: SavedModel, tokenizer: PreTrainedTokenizerBase, rows: int = ROWS
    ) -> None:
        """Load the file, to write so many `rows` together at most.

        Raises Failure if llama.cpp cannot read it.
        """
        import xllamacpp

        self._tokenizer = tokenizer
        self._vocabulary = load_architecture(saved.model).vocab_size
        self._ends = saved.ends or end_tokens(saved.model)
        # What the server takes itself if it is asked for the likeliest tokens, which it does not
        # return if it takes one that is a part of a character.
        self._answer = [[tokenizer(".", add_special_tokens=False)["input_ids"][-1], 1e9]]
        self._free = queue.SimpleQueue[int]()  # places in the server
        self._rows = max(1, min(rows, ROWS))
        for row in range(self._rows):
            self._free.put(row)
        params = xllamacpp.CommonParams()
        params.model.path = saved.model.base
        params.n_parallel = self._rows
        params.n_ctx = self._rows * (saved.prompt.max_tokens + saved.generate.max_new_tokens)
        params.n_gpu_layers = 0
        for threads in (params.cpuparams, params.cpuparams_batch):
            threads.n_threads = torch.get_num_threads()
        params.fit_params = params.warmup = False
        params.cache_ram_mib = 0  # of rows that were overwritten
        params.verbosity = -1
        # It also listens on loopback, where nobody knows the key.
        params.api_keys = [secrets.token_hex()]
        params.ui = params.endpoint_slots = False
        params.n_threads_http = 1
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise Failure(
                f"llama.cpp cannot read {saved.model.base} ({error}): give --engine transformers"
            ) from None

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        settings: GenerateConfig,
        on_token: OnToken | None = None,
    ) -> list[Candidates]:
        """Return what is written for each prompt, as `generate_candidates` does.

        The candidates of a prompt are written one after the other. Raises Failure if llama.cpp
        refuses a prompt.
        """
        started, copies = time.perf_counter(), settings.candidates
        sampling = Sampling.seeded(prompts, settings) if copies > 1 else None
        talking, stopped = threading.Lock(), threading.Event()

        def write(index: int) -> list[list[int]]:
            place = self._free.get()
            try:
                return [write_row(index, copy, place) for copy in range(copies)]
            finally:
                self._free.put(place)

        def write_row(index: int, copy: int, place: int) -> list[int]:
            row, new = index * copies + copy, list[int]()
            for token in self._tokens(prompts[index], settings, place, sampling, row):
                new.append(token)
                ended = token in self._ends
                with talking:
                    wanted = on_token is None or on_token(row, None if ended else token)
                if ended or not wanted or stopped.is_set():
                    break
            return new

        with ThreadPoolExecutor(self._rows) as pool:
            try:
                rows = list(pool.map(write, range(len(prompts))))
            finally:
                stopped.set()
        seconds = (time.perf_counter() - started) / len(prompts)
        return [
            Candidates(tuple(cut_at_end(row, self._ends) for row in written), None, seconds)
            for written in rows
        ]

    def stream(self, prompt: Sequence[int], settings: GenerateConfig) -> Iterator[int]:
        """Yield the new tokens of one prompt, without the end of sequence. Raises as `generate`."""
        for token in self._tokens(prompt, settings):
            if token in self._ends:
                return
            yield token

    def _tokens(
        self,
        prompt: Sequence[int],
        settings: GenerateConfig,
        place: int = 0,
        sampling: Sampling | None = None,
        row: int = 0,
    ) -> Iterator[int]:
        """Yield new tokens up to the limit, past ends too, which are the caller's to notice.

        Args:
            prompt: Its token ids.
            settings: The limits, and what may not be repeated.
            place: The place in the server at which the prompt is read.
            sampling: How tokens are drawn; None takes the likeliest.
            row: The row of `sampling`.
        """
        # The first candidate reads its prompt from the beginning, so that what was read at this
        # place before changes nothing.
        again = sampling is not None and row % sampling.copies > 0
        size, new = self._vocabulary, list[int]()
        rules = rules_for(settings, self._tokenizer, self._ends, _CPU)

        def allowed() -> torch.Tensor:
            """Return 0 for each token that may come next, else -inf: [1, vocabulary]."""
            written = torch.tensor([new], dtype=torch.long)
            scores: torch.Tensor = rules(written, torch.zeros(1, size))  # type: ignore[arg-type]
            return scores

        while (left := settings.max_new_tokens - len(new)) > 0:
            scores = allowed()
            forbidden, ids = int(scores.isinf().sum()), [*prompt, *new]
            known = again or bool(new)
            ahead = (
                [] if sampling or forbidden else self._ahead(ids, min(AHEAD, left), place, known)
            )
            for token in ahead:
                # What llama.cpp wrote from a forbidden token on, it writes again without it.
                if new and allowed()[0, token].isinf():
                    break
                new.append(token)
                yield token
            if not ahead:
                n = min(size, forbidden + (NUCLEUS if sampling else 1))
                best, logs = self._likeliest(ids, n, place, known)
                scores[0, best] += logs
                unknown = torch.ones_like(scores, dtype=torch.bool)
                unknown[0, best] = False
                scores[unknown] = -torch.inf
                drawn = sampling.draw(scores, [row], len(new)) if sampling else scores.argmax()
                new.append(int(drawn))
                yield new[-1]

    def _ahead(self, ids: Sequence[int], n: int, place: int, again: bool) -> list[int]:
        """Return up to `n` tokens that follow `ids`, the likeliest each time."""
        more = {"return_tokens": True, "verbose": True}
        tokens: list[int] = self._ask(ids, n, place, again, more)["__verbose"]["tokens"]
        return tokens

    def _likeliest(
        self, ids: Sequence[int], n: int, place: int, again: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the `n` likeliest tokens after `ids`, and the logarithms of their shares."""
        answer = self._ask(ids, 1, place, again, {"logprobs": n, "logit_bias": self._answer})
        best = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        tokens, logs = [one["id"] for one in best], [one["logprob"] for one in best]
        return torch.tensor(tokens), torch.tensor(logs)

    def _ask(
        self, ids: Sequence[int], n: int, place: int, again: bool, more: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the server's answer of `n` tokens. Raises Failure for a refusal."""
        asked = {"prompt": list(ids), "max_tokens": n, "temperature": 0, "id_slot": place}
        answer: Any = self._server.handle_completions({**asked, "cache_prompt": again, **more})
        if error := answer.get("error"):
            raise Failure(f"llama.cpp refuses a prompt of {len(ids):,} tokens: {error['message']}")
        if (read := answer["usage"]["prompt_tokens"]) != len(ids):
            raise Failure(f"llama.cpp read {read:,} tokens of a prompt of {len(ids):,}")
        return dict(answer)
