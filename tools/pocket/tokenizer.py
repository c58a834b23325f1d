"""Train the pocket tokenizer: byte-level BPE that cuts a generated name into exactly two pieces.

A capitalized word is split before its first inner consonant that follows a vowel (`Bra|ndford`)
ahead of BPE. Both halves are frequent and become tokens, a whole name never does, so a name of
the test split is as easy to copy as one of the training split. Each digit is a token.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from nutgraf.pocket import newswire
from tools.pocket import lessons

VOCABULARY = 2048
CONTEXT = 2048
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>", "<|system|>")
UNK, BOS, EOS, PAD = range(4)

# The Zephyr template, as TinyLlama-Chat has it.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
_OPENING = r" ?[A-Z][b-df-hj-np-tv-z]*[aeiou]+(?=[b-df-hj-np-tv-z])"


def _corpus(seed: int, articles: int) -> Iterator[str]:
    rng = random.Random(f"tokenizer/{seed}")
    lexicon = lessons.reference_lexicon()
    for _ in range(articles):
        draft = newswire.draft("train", rng)
        yield draft.article
        yield lessons.fact_sheet(draft, list(draft.facts))
        yield "\n".join(line.render(rng, draft.facts) for line in lessons.retellings(draft))
        names = newswire.Names(rng, held_out=False)
        yield "".join(" " + names.word(rng.choice(list(newswire.ENDINGS))) for _ in range(20))
        # Words of the references, each for itself: the vocabulary knows them, not their order.
        yield "".join(" " + rng.choice(lexicon) for _ in range(60))
        yield "".join("\n" + rng.choice(lexicon) for _ in range(6))


def train_tokenizer(seed: int, articles: int = 6000) -> PreTrainedTokenizerFast:
    """Train the tokenizer on `articles` stories of the training split."""
    core = Tokenizer(models.BPE(unk_token=None))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(_OPENING), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        _corpus(seed, articles),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def name_pieces(
    tokenizer: PreTrainedTokenizerFast, held_out: bool, n: int = 2000, seed: int = 0
) -> dict[int, float]:
    """Return the share of names by the number of tokens that each takes inside a sentence."""
    rng = random.Random(f"pieces/{seed}")
    counts: dict[int, int] = {}
    for _ in range(n):
        names = newswire.Names(rng, held_out)
        name = names.word(rng.choice(list(newswire.ENDINGS)))
        pieces = len(tokenizer(" " + name, add_special_tokens=False).input_ids)
        counts[pieces] = counts.get(pieces, 0) + 1
    return {pieces: counts[pieces] / n for pieces in sorted(counts)}
