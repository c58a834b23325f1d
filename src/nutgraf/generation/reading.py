"""Read sentences behind passages of their article with a language model that is not trained for it.

How well a model that has read a text foresees a sentence says something of whether the text
supports it: BARTScore (Yuan et al. 2021) takes the likelihood behind the article, CoCo (Xie et al.
2021) what the article adds to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nutgraf.config import ModelConfig, PromptConfig
from nutgraf.core.errors import UserError
from nutgraf.data.prompts import Renderer
from nutgraf.data.sentences import sentence_spans
from nutgraf.evaluation.support import Checked, Reading, SupportJudge
from nutgraf.modeling.batching import length_batches
from nutgraf.modeling.dims import PASSAGE_TOKENS, READ_ROWS, SENTENCE_TOKENS
from nutgraf.modeling.inference import FastInference
from nutgraf.modeling.load import Device, choose_device, load_base, load_tokenizer
from nutgraf.modeling.losses import guard_memory, pad_left
from nutgraf.modeling.saved_model import SavedModel


class Reader:
    """A base that reads passages and what is said of them, in the base's own chat if it has one."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, device: Device
    ) -> None:
        self._model, self._device, self._pad = model, device, tokenizer.pad_token_id
        config = PromptConfig(
            template="chat" if tokenizer.chat_template else "plain",
            max_article_tokens=PASSAGE_TOKENS,
            max_tokens=2 * PASSAGE_TOKENS,
        )
        self._renderer = Renderer(tokenizer, config)
        self._fast = FastInference(model, device)

    def check(self, article: str, summaries: Sequence[str]) -> list[list[Checked]]:
        """Return each summary's sentences with their probabilities. Raises as `read`."""
        places = [[place[1:] for place in sentence_spans(text)] for text in summaries]
        every = zip(summaries, places, strict=True)
        texts = list(dict.fromkeys(text[start:end] for text, own in every for start, end in own))
        judge = SupportJudge(article)
        readings = self.read([(judge.passages(text), text) for text in texts])
        known = dict(zip(texts, readings, strict=True))
        return [
            [judge.check(text, start, end, known[text[start:end]]) for start, end in own]
            for text, own in zip(summaries, places, strict=True)
        ]

    @torch.inference_mode()
    def read(self, pairs: Sequence[tuple[str, str]]) -> list[Reading]:
        """Return how the second text of each pair was read behind the first.

        Raises PromptError for an empty text, DeviceMemoryError if there is no memory for a batch.
        """
        prompts = [self._renderer.prompt(passages).ids for passages, _ in pairs]
        answers = [self._renderer.answer(sentence)[:SENTENCE_TOKENS] for _, sentence in pairs]
        rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        out = dict[int, Reading]()
        for batch in length_batches([len(row) for row in rows], READ_ROWS):
            ids, mask = pad_left([rows[i] for i in batch], self._pad, self._device)
            with (
                self._device.autocast(),
                guard_memory(len(batch), ids.shape[1], "set model.quantization to nf4"),
                self._fast.used(),
            ):
                logits = self._model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                    logits_to_keep=max(len(answers[i]) for i in batch) + 1,
                    use_cache=False,
                ).logits
            for i, of_row in zip(batch, logits, strict=True):
                out[i] = _reading(of_row[-len(answers[i]) - 1 : -1].float(), answers[i])
        return [out[i] for i in range(len(rows))]


def check_base_apart(saved: SavedModel) -> None:
    """Raise UserError for a whole model: it would judge its own words, which is not measured."""
    if saved.adapter is None:
        raise UserError(
            f"--check-facts reads with the base, and {saved.folder} is a whole model, which would "
            "judge its own words: give a run folder or its final_best_model, or leave it out"
        )


def load_reader(config: ModelConfig) -> Reader:
    """Return a base that reads. Raises as `load_base` and `load_tokenizer`."""
    return Reader(load_base(config), load_tokenizer(config), choose_device(config))


def _reading(logits: torch.Tensor, ids: Sequence[int]) -> Reading:
    of_token = logits.gather(1, torch.tensor(ids, device=logits.device)[:, None])
    return Reading((logits > of_token).sum(1).cpu().numpy().astype(np.float64))
