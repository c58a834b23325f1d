"""What nutgraf is measured against: three other recipes for the same job, in our own words.

`original` is the recipe of the notebook that the project grew from: a row at a time, padded to 256
tokens, loss over the whole of it, evaluated twice, summaries sampled one by one. `quick_start` is
TRL's SFTTrainer as its documentation shows it first: a model, a data set of prompts and
completions, defaults. `plain_loop` is what somebody who knows PyTorch writes in thirty lines.
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
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

Pair = tuple[str, str]  # article, summary

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
    base: Path, pairs: Sequence[Pair], examples: int, out: Path, nf4: bool = False
) -> Cost:
    """SFTTrainer with its defaults: 8 rows, 1,024 tokens, those that lose their summary dropped."""
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
    kept = trainer.train_dataset
    assert kept is not None
    print(f"quick start keeps {len(kept)} of {len(pairs)} rows", flush=True)
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    length = sum(len(row["input_ids"]) for row in kept) / len(kept)
    return Cost(steps * batch, round(steps * batch * length), seconds, peak())


def plain_loop(
    base: Path, pairs: Sequence[Pair], examples: int, nf4: bool = False, batch: int = 4
) -> Cost:
    """Transformers, peft and AdamW: 16 ranks on all linear layers, the base in bf16, SDPA.

    Rows of similar length, no mask (attention is causal, padding on the right), logits of the
    summaries only: what is known to be fast and costs no more than a line.
    """
    model, tokenizer = load(base, nf4)
    if not nf4:
        model.to(torch.bfloat16)
    device = model.device.type
    peft = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    optimizer = torch.optim.AdamW([p for p in peft.parameters() if p.requires_grad], lr=2e-4)
    rows = []
    for article, summary in itertools.islice(itertools.cycle(pairs), examples):
        prompt = tokenizer(f"Summarize: {article}\n\nSummary:").input_ids
        target = [
            *tokenizer(f" {summary}", add_special_tokens=False).input_ids,
            tokenizer.eos_token_id,
        ]
        ids = torch.tensor(prompt + target)
        rows.append((ids, torch.tensor([-100] * len(prompt) + target)))
    rows.sort(key=lambda row: len(row[0]))
    started = time.perf_counter()
    for start in range(0, examples, batch):
        ids, labels = zip(*rows[start : start + batch], strict=True)
        inputs = pad_sequence(ids, batch_first=True).to(device)
        targets = pad_sequence(labels, batch_first=True, padding_value=-100)[:, 1:].to(device)
        counted = targets != -100
        with torch.autocast(device, torch.bfloat16):
            hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state[:, :-1]
            logits = model.lm_head(hidden[counted]).float()
        functional.cross_entropy(logits, targets[counted]).backward()
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - started
    return Cost(examples, sum(len(ids) for ids, _ in rows), seconds, peak())
