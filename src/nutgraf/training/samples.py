"""Let a model in training summarize the same few validation articles at each evaluation.

It decides nothing: greedy decoding draws no random number, and changes no weight.
"""

from __future__ import annotations

import logging

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nutgraf.data.prompts import Renderer, summary_text
from nutgraf.generation.decoding import generate_batch
from nutgraf.generation.draft import decode_summary
from nutgraf.modeling.load import Device
from nutgraf.modeling.losses import DeviceMemoryError
from nutgraf.training.history import History
from nutgraf.training.job import TrainingJob

logger = logging.getLogger(__name__)


def add_samples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    job: TrainingJob,
    device: Device,
    history: History,
) -> None:
    """Add to the history what the model writes now of the first `train.samples` evaluated articles.

    It is decoded greedily from the prompts of their training rows, and cut as the study cuts. The
    model must be in eval mode. If there is no memory for it, that is logged, and nothing is added.
    """
    rows = job.evaluated_rows[: job.config.train.samples]
    if not rows:
        return
    settings = job.config.generate.model_copy(update={"num_beams": 1, "batch_size": len(rows)})
    prompts = [row.input_ids[: row.prompt_tokens] for row in rows]
    try:
        written = generate_batch(model, tokenizer, prompts, settings, device)
    except DeviceMemoryError:
        number = f"train.samples {len(rows)}"
        logger.warning(f"{number}: no memory on the device to write so many; a training needs none")
        return
    texts = [decode_summary(tokenizer, new.ids, new.finish_reason, settings)[0] for new in written]
    frame = Renderer(tokenizer, job.config.prompt).recipe()
    head, tail = len(frame["head"]), len(frame["tail"])
    articles = [
        {
            "article": summary_text(tokenizer, row.input_ids[head : row.prompt_tokens - tail]),
            "reference": summary_text(tokenizer, row.input_ids[row.prompt_tokens :]),
        }
        for row in rows
    ]
    history.add_samples(articles, texts)
