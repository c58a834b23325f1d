"""Figures that others have published, each with where it stands. Cited, never measured here.

All are of CNN/DailyMail's non-anonymized test split, 11,490 articles, as the papers print them:
their "R-L" is summary-level (rougeLsum), computed in most with the Perl script and its stemmer.
They compare with a score on another data set or a sample only as far as its interval allows.
"""

from __future__ import annotations

from dataclasses import dataclass

TEST_ARTICLES = 11_490


@dataclass(frozen=True)
class Published:
    """ROUGE F-measures, 0-100, as a paper or a notebook states them; None where it does not."""

    system: str
    rouge1: float
    rouge2: float
    rougeLsum: float | None  # noqa: N815 - the name of the column in every table
    citation: str
    rougeL: float | None = None  # noqa: N815
    variant: str = "ROUGE-L over the whole summary (rougeLsum)"
    n: int = TEST_ARTICLES
    split: str = "test"
    dataset: str = "CNN/DailyMail"
    note: str = ""


SEE = (
    "See, Liu and Manning (2017), Get To The Point: Summarization with Pointer-Generator Networks, "
    "ACL"
)
LIU = "Liu and Lapata (2019), Text Summarization with Pretrained Encoders, EMNLP-IJCNLP"

LEAD_3 = Published("lead-3", 40.34, 17.70, 36.57, SEE)
POINTER_GENERATOR = Published(
    "pointer-generator",
    36.44,
    15.66,
    33.42,
    SEE,
    note="The original notebook gives these figures as BART-Large's.",
)
POINTER_GENERATOR_COVERAGE = Published("pointer-generator + coverage", 39.53, 17.28, 36.38, SEE)
BERT_SUM = Published("BertSumExtAbs", 42.13, 19.60, 39.18, LIU)
BART = Published(
    "BART-large",
    44.16,
    21.28,
    40.90,
    "Lewis et al. (2020), BART: Denoising Sequence-to-Sequence Pre-training for Natural Language "
    "Generation, Translation, and Comprehension, ACL",
)
PEGASUS = Published(
    "PEGASUS-large",
    44.17,
    21.47,
    41.11,
    "Zhang et al. (2020), PEGASUS: Pre-training with Extracted Gap-sentences for Abstractive "
    "Summarization, ICML",
)
SIMCLS = Published(
    "SimCLS",
    46.67,
    22.15,
    43.54,
    "Liu and Liu (2021), SimCLS: A Simple Framework for Contrastive Learning of Abstractive "
    "Summarization, ACL-IJCNLP",
)
BRIO = Published(
    "BRIO",
    47.78,
    23.55,
    44.57,
    "Liu et al. (2022), BRIO: Bringing Order to Abstractive Summarization, ACL",
)

SYSTEMS = (
    LEAD_3,
    POINTER_GENERATOR,
    POINTER_GENERATOR_COVERAGE,
    BERT_SUM,
    BART,
    PEGASUS,
    SIMCLS,
    BRIO,
)


def _notebook(system: str, rouge1: float, rouge2: float, sentence_level: float) -> Published:
    return Published(
        system=system,
        rouge1=rouge1,
        rouge2=rouge2,
        rougeLsum=None,
        rougeL=sentence_level,
        citation="FineTuneTinyLlama.ipynb, the notebook that nutgraf grew from",
        variant="ROUGE-L as one sentence (rougeL)",
        n=20,
        split="20 articles",
        note="Against references cut to 100 characters: comparable with no other figure.",
    )


ORIGINAL_NOTEBOOK = (
    _notebook("notebook, best", 27.85, 11.82, 21.86),
    _notebook("notebook, baseline", 26.84, 10.75, 20.72),
)


def in_table() -> tuple[Published, ...]:
    """The published rows of the comparison: the two that summarization is mostly held against."""
    return (BART, PEGASUS)


def comparable(data: str) -> bool:
    """Whether figures published for CNN/DailyMail compare with those of `data`, in words."""
    return "cnn_dailymail" in data
