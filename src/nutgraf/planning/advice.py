"""Name unusual settings, each with its cost: one rule a setting."""

from __future__ import annotations

import math
from collections.abc import Iterator

from nutgraf.config import Config, effects
from nutgraf.config.load import with_overrides
from nutgraf.core.units import duration, memory
from nutgraf.planning.duration import Plan
from nutgraf.planning.memory import ADAPTER_BYTES, RowLengths, training_bytes
from nutgraf.training.budget import evaluation_steps, total_examples

# Standard deviation of ROUGE-1 over single summaries of CNN/DailyMail: 20 articles give a 95%
# interval of ±5.4 points (configs/original-notebook.yaml).
ROUGE1_DEVIATION = 12.3


def settings_advice(config: Config) -> Iterator[str]:
    """Yield what follows from the settings alone, a line each: `setting value: its cost`."""
    data, search, beams = config.data, config.search, config.generate.num_beams
    yield from effects.idle(config)
    if data.test_examples is not None and data.test_examples < 100:
        interval = 1.96 * ROUGE1_DEVIATION / math.sqrt(data.test_examples)
        yield (
            f"data.test_examples {data.test_examples}: the 95% interval of a mean ROUGE-1 is about "
            f"±{interval:.1f} points"
        )
    examples = total_examples(config.train)
    if data.train_examples is not None and examples > 1.05 * data.train_examples:
        repeats = examples / data.train_examples
        yield f"data.train_examples {data.train_examples}: each article is seen {repeats:.1f} times"
    evaluations = len(evaluation_steps(config.train))
    if evaluations <= search.grace_evaluations:
        yield (
            f"train.eval_every {config.train.eval_every}: {evaluations} evaluation"
            f"{'s' * (evaluations > 1)} of each trial, so none is stopped early: the search costs "
            f"{search.trials} whole trainings"
        )
    if search.parallel_trials < search.concurrent:
        yield (
            f"search.concurrent {search.concurrent}: with {search.cpus_per_trial:g} cores a trial, "
            f"{search.parallel_trials} at a time run here"
        )
    if (candidates := config.generate.candidates) > 1:
        yield (
            f"generate.candidates {candidates}: each summary of the best model costs about what "
            f"reading an article and writing {candidates} summaries costs"
        )
    if beams > 1:
        yield (
            f"generate.num_beams {beams}: writing takes about {beams} times as long as greedily, "
            f"with {beams} times the cache"
        )


def cost_advice(config: Config, plan: Plan) -> Iterator[str]:
    """Yield what only the plan shows, in such lines."""
    train, rows, machine, cpu = config.train, plan.rows, plan.machine, plan.machine.device == "cpu"
    seconds = {stage.name: stage.seconds for stage in plan.stages}
    free, present = memory(machine.free), memory(plan.training_bytes)

    def peak(setting: str, value: object) -> int:
        changed = with_overrides(config, {setting: value})
        return round(training_bytes(changed, plan.shape, rows, machine))

    if len(train.seeds) == 1:
        yield (
            f"train.seeds {list(train.seeds)}: the spread between trainings stays unknown; a "
            f"further seed costs about {duration(seconds['train'] + seconds['generate'] / 2)}"
        )
    if rows.longest_row > 1024:
        short = RowLengths(**{name: min(tokens, 1024) for name, tokens in vars(rows).items()})
        shorter = round(training_bytes(config, plan.shape, short, machine))
        yield (
            f"prompt.max_tokens {config.prompt.max_tokens}: the longest row has "
            f"{rows.longest_row:,} tokens and a training holds {present}; with 1,024 it would hold "
            f"{memory(shorter)}"
        )
    if train.micro_batch_size == 1 and not cpu:
        yield (
            "train.micro_batch_size 1: one row at a time leaves a GPU mostly idle; 4 rows take "
            f"{memory(peak('train.micro_batch_size', 4))} of {free}"
        )
    if train.activation_checkpointing:
        faster = peak("train.activation_checkpointing", False)
        if faster < machine.free:
            yield (
                "train.activation_checkpointing True: about 20% slower; without it a training "
                f"holds {memory(faster)} in place of {present}, and {free} are free"
            )
    if config.model.quantization == "nf4" and cpu:
        yield (
            f"model.quantization nf4: a training holds {present} in place of "
            f"{memory(peak('model.quantization', 'none'))}, and on a CPU each product unpacks its "
            "weights first"
        )
    if config.lora.r >= 128:
        yield (
            f"lora.r {config.lora.r}: {plan.shape.adapter / 1e6:,.1f} million weights in an "
            f"adapter, {memory(ADAPTER_BYTES * plan.shape.adapter)} with gradients and moments"
        )
    if config.generate.max_new_tokens < rows.longest_summary:
        yield (
            f"generate.max_new_tokens {config.generate.max_new_tokens}: references have up to "
            f"{rows.longest_summary} tokens: summaries as long as those are cut"
        )
