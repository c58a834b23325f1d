"""Say what a training, a summary or a sentence takes at measured speeds, in seconds.

What is not measured is a constant here with its source.
"""

from __future__ import annotations

from dataclasses import dataclass

from nutgraf.config import Config, TrainConfig
from nutgraf.config.systems import fits_choice, model_systems
from nutgraf.modeling.dims import ModelDims
from nutgraf.planning.memory import RowLengths
from nutgraf.training.budget import (
    candidates_config,
    effective_batch_size,
    evaluation_steps,
    round_config,
    total_steps,
)

# Measured on two cores of an AMD EPYC (docs/benchmarks.md, Planner and Scoring).
TRAINING_SECONDS = 1.0  # of a training before its first step and after its last
ROUGE_RATE = 570  # summaries a second scored with ROUGE, of one process
FITTED_RATE = 250  # candidates a second scored and measured for a fitted choice, of one process
# A token of a few samples takes this share of one of a full batch of summaries (the pocket model: 5
# ms for 3 rows, 12 for 48, one thread, n = 1 each).
FEW_SHARE = 0.45
# Tokens of a sentence and of the prompt that it is read behind (SmolLM2: 17 and 107 of references
# of CNN/DailyMail, n = 98; the pocket model: 23 and 83 of the newswire's, n = 65).
TYPICAL_SENTENCE, TYPICAL_PASSAGES = 20, 100
# Seconds of a sentence beside products: passages, tokens, small batches of ever new shapes (the
# pocket model, whose products take 2 ms: 30 ms of processor, n = 86, on a busy machine).
SENTENCE_SECONDS = 0.03


@dataclass(frozen=True)
class Speed:
    """The speed of one training."""

    training: float  # operations a second in its steps
    reading: float  # operations a second in the forward passes of its evaluations
    saving: float  # seconds of a checkpoint, one after each evaluation


@dataclass(frozen=True)
class Speeds:
    """Hold the speeds that `benchmark` measured."""

    trial: Speed  # of a trial among as many others as run at a time
    alone: Speed  # of the trainings of baseline and best, as many at a time as the stage runs
    looking: float  # operations a second of the losses of given summaries, on all cores
    reading: float  # operations a second of reading prompts, on all cores
    token: float  # seconds of one more token for a full batch of summaries
    measured_on: str  # what was measured, in words
    others: float = 0.0  # cores that other programs used; the speeds are without them


def forward_operations(dims: ModelDims, rows: float, tokens: float, outputs: float) -> float:
    """Return the operations of a forward pass over `rows` rows of `tokens` tokens.

    Two for each weight, and two products of each token with those before it; the output layer
    computes `outputs` tokens of each row.
    """
    attention = 4 * tokens * dims.query_width * dims.layers
    layers = 2 * (dims.linear + dims.adapter) + attention
    return rows * (tokens * layers + outputs * 2 * dims.vocabulary * dims.width)


def forward_passes(train: TrainConfig) -> int:
    """Return how many forward passes a training step costs.

    Itself, the gradients of its activations (frozen weights have none), and itself again if
    activations are recomputed.
    """
    return 3 if train.activation_checkpointing else 2


def training_seconds(train: TrainConfig, dims: ModelDims, rows: RowLengths, speed: Speed) -> float:
    """Return the seconds of one training to its end, with its evaluations."""
    examples = total_steps(train) * effective_batch_size(train)
    tokens = rows.padded or rows.row
    steps = forward_passes(train) * forward_operations(dims, examples, tokens, rows.summary)
    evaluated = forward_operations(dims, train.eval_examples, rows.row, rows.summary)
    evaluation = evaluated / speed.reading + speed.saving
    return steps / speed.training + len(evaluation_steps(train)) * evaluation


def samples_seconds(config: Config, dims: ModelDims, rows: RowLengths, speeds: Speeds) -> float:
    """Return the seconds in which one training summarizes its samples, at all its evaluations."""
    n = min(config.train.samples, config.train.eval_examples)
    if not n:
        return 0.0
    read = forward_operations(dims, n, rows.prompt, 0) / speeds.reading
    written = config.generate.max_new_tokens * speeds.token * FEW_SHARE
    return len(evaluation_steps(config.train)) * (read + written)


def round_seconds(
    config: Config, dims: ModelDims, rows: RowLengths, speeds: Speeds, articles: int
) -> float:
    """Return the seconds of a round: candidates, losses of the pairs, and a training on them."""
    n = min(config.preference.articles, articles)
    losses = forward_operations(dims, 2 * n, rows.row, rows.summary) / speeds.looking
    own = round_config(config, n)
    training = training_seconds(own.train, dims, rows, speeds.alone) + TRAINING_SECONDS
    training += samples_seconds(own, dims, rows, speeds)
    scored = n * config.preference.candidates / ROUGE_RATE
    return training_candidates_seconds(config, dims, rows, speeds, n) + scored + losses + training


def training_candidates_seconds(
    config: Config, dims: ModelDims, rows: RowLengths, speeds: Speeds, n: int
) -> float:
    """Return the seconds in which a model writes candidates of n training articles."""
    writer = candidates_config(config)
    seconds = generation_seconds(writer, dims, rows, n, speeds)
    return seconds + candidate_seconds(writer, dims, n, speeds)


def choice_seconds(
    config: Config, dims: ModelDims, rows: RowLengths, speeds: Speeds, articles: int
) -> float:
    """Return the seconds of fitting a choice; a round has written its candidates before."""
    if not fits_choice(config):
        return 0.0
    n = min(config.preference.articles, articles)
    fitting = n * config.preference.candidates / FITTED_RATE
    if config.train.rounds:
        return fitting
    return training_candidates_seconds(config, dims, rows, speeds, n) + fitting


def generation_seconds(
    config: Config, dims: ModelDims, rows: RowLengths, n: int, speeds: Speeds
) -> float:
    """Return the seconds in which a model with an adapter generates n summaries.

    A batch goes on until the last of its summaries ends, which is taken to be the limit.
    """
    generate = config.generate
    read = forward_operations(dims, n, rows.prompt, 0) / speeds.reading
    batches = n / generate.batch_size if n > generate.batch_size else 1
    return read + batches * generate.max_new_tokens * speeds.token


def facts_seconds(
    config: Config, dims: ModelDims, rows: RowLengths, n: int, speeds: Speeds
) -> float:
    """Return the seconds in which the base reads references and models' summaries by sentence."""
    texts = min(config.facts.articles, n) * (1 + len(model_systems(config)))
    sentences = texts * rows.summary / TYPICAL_SENTENCE
    tokens = TYPICAL_PASSAGES + TYPICAL_SENTENCE
    products = forward_operations(dims, sentences, tokens, TYPICAL_SENTENCE) / speeds.looking
    return products + SENTENCE_SECONDS * sentences


def candidate_seconds(config: Config, dims: ModelDims, n: int, speeds: Speeds) -> float:
    """Return the seconds that all candidates but the first take, whose prompts have been read.

    Their products are as fast as those of reading.
    """
    generate = config.generate
    rows = n * (generate.candidates - 1)
    return forward_operations(dims, rows, generate.max_new_tokens, generate.max_new_tokens) / (
        speeds.reading
    )
