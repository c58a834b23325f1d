"""Choose pairs of summaries that a model wrote of one article, and compute their loss.

Direct preference optimization: Rafailov et al. 2023, arXiv:2305.18290; with the likelihood of the
better one, which it would let fall: Pang et al. 2024, arXiv:2404.19733.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import logsigmoid

from nutgraf.config import Config
from nutgraf.evaluation.rouge import score_rouge
from nutgraf.generation.candidate_features import agreement, unsupported


def best_and_worst(
    article: str, reference: str, candidates: Sequence[str], config: Config
) -> tuple[int, int] | None:
    """Return the indices of the candidates with the highest and the lowest reward.

    An empty one is no candidate. None if all others have the same reward.
    """
    indices = [i for i, text in enumerate(candidates) if text]
    if len(indices) < 2:
        return None
    texts = [candidates[i] for i in indices]
    rewards = dict(zip(indices, _rewards(article, reference, texts, config), strict=True))
    best = max(indices, key=lambda i: (rewards[i], -i))
    worst = min(indices, key=lambda i: (rewards[i], -i))
    return None if rewards[best] == rewards[worst] else (best, worst)


def _rewards(
    article: str, reference: str, texts: Sequence[str], config: Config
) -> list[tuple[float, ...]]:
    """Return what `preference.reward` compares candidates by."""
    if config.preference.reward == "reference":
        scores = [score_rouge(reference, text, config.score.tokenizer) for text in texts]
        return [(row["rouge1"] + row["rouge2"] + row["rougeLsum"],) for row in scores]
    if config.preference.reward == "consensus":
        return [(value,) for value in agreement(texts).tolist()]
    rows = zip(unsupported(article, texts), agreement(texts).tolist(), strict=True)
    return [(-missing, value) for missing, value in rows]


def preference_losses(
    nll: torch.Tensor,
    start_nll: torch.Tensor,
    tokens: torch.Tensor,
    beta: float,
    likelihood: float,
) -> torch.Tensor:
    """Return the loss of each pair, [pairs], equation 7 of Rafailov et al., 1 and 2 of Pang et al.

    Args:
        nll: Nats of the summaries in the model that is trained, [2 * pairs], each better one before
            the worse.
        start_nll: The same in the model that the training starts from.
        tokens: Tokens of the summaries.
        beta: How dear it is to leave that model, per nat.
        likelihood: How much the nats a token of the better one count.
    """
    gain = (start_nll - nll).view(-1, 2)
    preferred = -logsigmoid(beta * (gain[:, 0] - gain[:, 1]))
    return preferred + likelihood * (nll / tokens)[::2]
