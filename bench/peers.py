"""What nutgraf is measured against: three other recipes for the same job, in our own words.

`original` is the recipe of the notebook that the project grew from: a row at a time, padded to 256
tokens, loss over the whole of it, evaluated twice, summaries sampled one by one. `quick_start` is
TRL's SFTTrainer as its documentation shows it first: a model, a data set of prompts and
completions, defaults. `PlainLoop` is what somebody who knows PyTorch writes in thirty lines, here
with what may make its steps faster.
"""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from rows import Pair
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

Row = tuple[torch.Tensor, torch.Tensor]  # token ids, labels

PADDED = 256


@dataclass(frozen=True)
class Cost:
    """What one training cost: rows with a loss, their tokens without padding, wall time, memory."""

    examples: int
    tokens: int
    seconds: float
    peak_bytes: int

    @property
    def rate(self) -> float:
        """Supervised examples a second."""
        return self.examples / self.seconds


def peak() -> int:
    """Most memory of this process so far, or of the GPU where there is one (bytes)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def synchronize() -> None:
    """Wait until the GPU has done its work, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Clock(TrainerCallback):
    """The times at which steps ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        synchronize()
        self.times.append(time.perf_counter())


def load(base: Path, nf4: bool) -> tuple[Any, Any]:
    """Model and tokenizer of a checkpoint, as a quick start loads them.

    But fp16 is held in fp32 on a CPU, which multiplies it an order of magnitude faster.
    """
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4") if nf4 else None
    model = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=torch.bfloat16 if nf4 else "auto",
        quantization_config=quantization,
        device_map={"": "cuda" if torch.cuda.is_available() else "cpu"},
    )
    if model.device.type == "cpu" and model.dtype == torch.float16:
        model.float()
    tokenizer = AutoTokenizer.from_pretrained(base)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def original(
    base: Path, pairs: Sequence[Pair], examples: int, out: Path, nf4: bool = False
) -> tuple[Cost, Any, Any]:
    """Batch 1, accumulation 8, every row padded to 256 tokens. Also returns model and tokenizer."""
    model, tokenizer = load(base, nf4)
    model = get_peft_model(
        model,
        LoraConfig(
            r=8,
            lora_alpha=16,
            lora_dropout=0.1,
            target_modules=["q_proj", "v_proj"],
            task_type="CAUSAL_LM",
        ),
    )
    rows = tokenizer(
        [f"Summarize: {article}\n\nSummary: {summary}" for article, summary in pairs],
        truncation=True,
        padding="max_length",
        max_length=PADDED,
        return_token_type_ids=False,
    )
    steps = max(1, examples // 8)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(out),
            per_device_train_batch_size=1,
            gradient_accumulation_steps=8,
            max_steps=steps,
            learning_rate=2e-4,
            warmup_steps=min(5, steps - 1),
            weight_decay=0.01,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=steps,
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=Dataset.from_dict(dict(rows)),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    length = sum(map(sum, rows["attention_mask"])) / len(pairs)
    return Cost(steps * 8, round(steps * 8 * length), seconds, peak()), model, tokenizer


def quick_start(
    base: Path, pairs: Sequence[Pair], examples: int, out: Path, nf4: bool = False, warm: int = 0
) -> Cost:
    """SFTTrainer with its defaults: 8 rows, 1,024 tokens, those that lose their summary dropped.

    The first `warm` steps do not count.
    """
    model, tokenizer = load(base, nf4)
    batch = min(8, examples)
    steps = max(1, examples // batch)
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(
            [
                {"prompt": f"Summarize: {article}\n\nSummary:", "completion": f" {summary}"}
                for article, summary in pairs
            ]
        ),
        peft_config=LoraConfig(),
        args=SFTConfig(
            output_dir=str(out),
            max_steps=steps,
            per_device_train_batch_size=batch,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=steps,
            use_cpu=not torch.cuda.is_available(),
        ),
    )
    dataset = trainer.train_dataset
    assert dataset is not None
    print(f"quick start keeps {len(dataset)} of {len(pairs)} rows", flush=True)
    clock = Clock()
    trainer.add_callback(clock)
    clock.times.append(time.perf_counter())
    trainer.train()
    seconds = clock.times[-1] - clock.times[warm]
    length = sum(len(row["input_ids"]) for row in dataset) / len(dataset)
    counted = (steps - warm) * batch
    return Cost(counted, round(counted * length), seconds, peak())


class PlainLoop:
    """Transformers, peft and AdamW: 16 ranks on all linear layers, the base in bf16, SDPA."""

    def __init__(self, base: Path, nf4: bool = False) -> None:
        self.model, self.tokenizer = load(base, nf4)
        if not nf4:
            self.model.to(torch.bfloat16)
        self.device = self.model.device.type
        self.model.train()  # or a CPU reads 4-bit weights by a kernel without gradients
        lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
        self.adapter = [p for p in get_peft_model(self.model, lora).parameters() if p.requires_grad]

    def rows(self, pairs: Sequence[Pair], examples: int) -> list[Row]:
        """Return so many rows, the shortest first: token ids, and the labels of the summary."""
        rows = []
        for article, summary in itertools.islice(itertools.cycle(pairs), examples):
            prompt = self.tokenizer(f"Summarize: {article}\n\nSummary:").input_ids
            target = [
                *self.tokenizer(f" {summary}", add_special_tokens=False).input_ids,
                self.tokenizer.eos_token_id,
            ]
            ids = torch.tensor(prompt + target)
            rows.append((ids, torch.tensor([-100] * len(prompt) + target)))
        return sorted(rows, key=lambda row: len(row[0]))

    def run(
        self,
        rows: Sequence[Row],
        batch: int = 4,
        warm: int = 0,
        fused: bool | None = None,
        packed: int = 0,
        multiple: int = 1,
    ) -> Cost:
        """Train on `rows` of similar length beside each other; the first `warm` steps do not count.

        With `packed`, rows stand one behind another in sequences of at most so many tokens, and
        `batch` is a number of these. `fused` is AdamW's. Sequences are as long as a `multiple`.
        """
        parts = packed_rows(rows, packed) if packed else [[row] for row in rows]
        batches = [parts[start : start + batch] for start in range(0, len(parts), batch)]
        optimizer = torch.optim.AdamW(self.adapter, lr=2e-4, fused=fused)
        started = time.perf_counter()
        for number, group in enumerate(batches):
            if number == warm:
                synchronize()
                started = time.perf_counter()
            nll, counted = self.nll(group, multiple, positions=bool(packed))
            (nll.sum() / counted.sum()).backward()
            optimizer.step()
            optimizer.zero_grad()
        synchronize()
        seconds = time.perf_counter() - started
        lengths = [len(ids) for group in batches[warm:] for part in group for ids, _ in part]
        return Cost(len(lengths), sum(lengths), seconds, peak())

    def nll(
        self, group: Sequence[Sequence[Row]], multiple: int = 1, positions: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the nats of the labels, and where they are: [sequences, tokens - 1].

        Each sequence has rows one behind another. With `positions` each row counts its own, by
        which transformers keeps rows apart. No mask (attention is causal, padding on the right),
        logits of the summaries only: what is known to be fast and costs no more than a line.
        """
        columns = zip(*(zip(*part, strict=True) for part in group), strict=True)
        ids, labels = ([torch.cat(part) for part in column] for column in columns)
        places = [torch.cat([torch.arange(len(ids)) for ids, _ in part]) for part in group]
        inputs, targets, starts = (
            _padded(column, value, multiple).to(self.device)
            for column, value in ((ids, 0), (labels, -100), (places, 0))
        )
        targets = targets[:, 1:]
        counted = targets != -100
        with torch.autocast(self.device, torch.bfloat16):
            hidden = self.model.model(
                input_ids=inputs, position_ids=starts if positions else None, use_cache=False
            ).last_hidden_state[:, :-1]
            logits = self.model.lm_head(hidden[counted]).float()
        return functional.cross_entropy(logits, targets[counted], reduction="none"), counted

    def compile(self, backend: str) -> None:
        """Compile each layer: layers are alike, so it is done once."""
        for layer in self.model.model.layers:
            layer.compile(backend=backend)


def packed_rows(rows: Sequence[Row], tokens: int) -> list[list[Row]]:
    """Return the rows in groups of at most so many tokens: the longest first, where it fits."""
    groups: list[list[Row]] = []
    room: list[int] = []
    for row in reversed(rows):
        n = len(row[0])
        place = next((i for i, free in enumerate(room) if free >= n), len(groups))
        if place == len(groups):
            groups.append([])
            room.append(max(tokens, n))
        groups[place].append(row)
        room[place] -= n
    return groups


def _padded(rows: Sequence[torch.Tensor], value: int, multiple: int) -> torch.Tensor:
    padded = pad_sequence(list(rows), batch_first=True, padding_value=value)
    return functional.pad(padded, (0, -padded.shape[1] % multiple), value=value)
