"""List figures that papers have published. They are cited, never measured here.

All are ROUGE F-measures, 0 to 100, of CNN/DailyMail's non-anonymized test split, as printed. Their
"R-L" is summary-level (rougeLsum), computed in most with the Perl script and its stemmer. A score
on another data set or a sample compares with them only as far as its interval allows.
"""

from __future__ import annotations

from dataclasses import dataclass

TEST_ARTICLES = 11_490


@dataclass(frozen=True)
class Published:
    """Cite what a paper states of a system."""

    system: str
    rouge1: float
    rouge2: float
    rougeLsum: float  # noqa: N815 - the name of the column in every table
    citation: str
    variant: str = "ROUGE-L over the whole summary (rougeLsum)"
    n: int = TEST_ARTICLES


_SEE = (
    "See, Liu and Manning (2017), Get To The Point: Summarization with Pointer-Generator Networks, "
    "ACL"
)
_LIU = "Liu and Lapata (2019), Text Summarization with Pretrained Encoders, EMNLP-IJCNLP"
_LEWIS = (
    "Lewis et al. (2020), BART: Denoising Sequence-to-Sequence Pre-training for Natural Language "
    "Generation, Translation, and Comprehension, ACL"
)
_ZHANG = (
    "Zhang et al. (2020), PEGASUS: Pre-training with Extracted Gap-sentences for Abstractive "
    "Summarization, ICML"
)
_SIMCLS = (
    "Liu and Liu (2021), SimCLS: A Simple Framework for Contrastive Learning of Abstractive "
    "Summarization, ACL-IJCNLP"
)
_BRIO = "Liu et al. (2022), BRIO: Bringing Order to Abstractive Summarization, ACL"

BART = Published("BART-large", 44.16, 21.28, 40.90, _LEWIS)
PEGASUS = Published("PEGASUS-large", 44.17, 21.47, 41.11, _ZHANG)
SYSTEMS = (
    Published("lead-3", 40.34, 17.70, 36.57, _SEE),
    # The notebook that nutgraf grew from gives these figures as BART-Large's.
    Published("pointer-generator", 36.44, 15.66, 33.42, _SEE),
    Published("pointer-generator + coverage", 39.53, 17.28, 36.38, _SEE),
    Published("BertSumExtAbs", 42.13, 19.60, 39.18, _LIU),
    BART,
    PEGASUS,
    Published("SimCLS", 46.67, 22.15, 43.54, _SIMCLS),
    Published("BRIO", 47.78, 23.55, 44.57, _BRIO),
)
# The rows of the comparison: the two systems that summarization is mostly compared with.
COMPARED = (BART, PEGASUS)


def why_not_comparable(data: str, stemmed: bool) -> str:
    """Return in a few words why the figures do not compare with ours; empty if they do.

    `data` describes the articles. Other words were compared if ours are not `stemmed`.
    """
    if "cnn_dailymail" not in data:
        return "other data"
    return "" if stemmed else "another tokenizer (score.tokenizer)"
