import pytest

from nutgraf.data.generator_marks import marks_line, without_marks
from nutgraf.evaluation.indicators import indicators


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("A man died .<n>He was 40 .", "A man died .\nHe was 40 ."),
        ("a man died<q>he was 40 .", "a man died\nhe was 40 ."),
        ("A man died. [X_SEP] He was 40. [X_SEP]", "A man died.\nHe was 40."),
        ("<t> a man died . </t> <t> he was 40 . </t>", "a man died .\nhe was 40 ."),
        ("<s> A man died. </s><pad><pad>", "A man died."),
        ("[CLS] a man died . [SEP] he left . [SEP]", "a man died .\nhe left ."),
        ("<|im_start|>assistant\nA man died.<|im_end|>", "A man died."),
        ("<|start_header_id|>assistant<|end_header_id|>\n\nHe died.<|eot_id|>", "He died."),
        ("A man died.<br />He left.<0x0A>It ended.", "A man died.\nHe left.\nIt ended."),
        (r"A man died.\nHe was 40.\n\nIt \"ended\" in a caf\u00e9.", None),
        ("It&#39;s Smith &amp; Sons &amp;#39;s", "It's Smith & Sons 's"),
        ("play ##ing foot ##ball", "playing football"),
        ("▁The ▁man ▁di ed .", "The man died."),
        ("▁The▁man▁died.", "The man died."),
        ("The Ġman Ġdied .", "The man died."),
        ("TheĠmanĠdied.ĊHeĠleft.", "The man died.\nHe left."),
        ("un@@ believ@@ able and well @-@ known", "unbelievable and well-known"),
        ("CNN -LRB- AP -RRB- -lsb- 1 -rsb-", "CNN ( AP ) [ 1 ]"),
        ("he said <unk> to [UNK] .", "he said to ."),
        ("<think>\nA tree?\n</think>\n\n<summary>A man died.</summary>", "A man died."),
        ("<start> a man died <end>", "a man died"),
        ("A man died. <newline> He left.||| It ended.<q/>", "A man died.\nHe left.\nIt ended."),
        ("A man died.##SENT##He left.<sent_sep>", "A man died.\nHe left."),
        ("<thinking>A tree?</thinking><answer>A man died.</answer>", "A man died."),
        ("<|channel|>final<|message|>A ⁇ man died.<|return|>", "A man died."),
        ("startseq a man died endseq", "a man died"),
        ("A man died.<｜end▁of▁sentence｜>", "A man died."),
        (r"A caf\u00e9 \ud83d\ude00 \ud83d closed.\r\nIt ended.", "A café 😀 � closed.\nIt ended."),
        ("The caf&eacute; &copy; &rarr; &amp;euro;5", "The café © → €5"),
        ("It cost $2 @,@ 500 @.@ 5", "It cost $2,500.5"),
    ],
)
def test_what_a_generator_leaves_is_cleaned_and_counted(text, clean):
    cleaned, marks = without_marks(text)
    assert cleaned == (clean or 'A man died.\nHe was 40.\nIt "ended" in a café.')
    assert marks


@pytest.mark.parametrize(
    "text",
    [
        "if a < b and c > d then AT&T <3 R&D; a <b> and List<T>",
        r"He went to C:\new\names and C:\temp.",
        "Ġorġ Farrugia met Ġużeppi in Malta on Friday.",
        "Ċensu saw Ġgantija and Ħaġar Qim, Ġgantija again.",
        r"On \\nas01\share and \\NEWS\b, in LaTeX \theta, $x \times y$.",
        "We will [end] this, he said in a [mask]. Q&A; M&S; R&D; profit & loss;",
        "## Heading\n#tag ## 5 [note] [1] -- (LRB)",
        "Summary: `` yes '' he said .\n\n  It  ended.",
    ],
)
def test_ordinary_text_stays_as_it_is(text):
    assert without_marks(text) == (text, {})


def test_marks_that_the_article_has_too_are_its_own():
    text = "CNN -LRB- AP -RRB- .<n>BERT ends at [SEP] ."
    clean = "CNN -LRB- AP -RRB- .\nBERT ends at [SEP] ."
    assert without_marks(text, "BERT takes [sep] -LRB- x -RRB- .") == (clean, {"<n>": 1})


def test_marks_are_no_words_numbers_or_ends_of_a_summary():
    text = "The mayor of Kent left .<q>It&#39;s over .</s>"
    article = "The mayor of Kent left. It's over."
    clean, marks = without_marks(text)
    counts = indicators(article, article, clean)
    assert (counts["unfinished"], counts["unsupported_numbers"], counts["words"]) == (0, 0, 7)
    assert marks_line(marks, 1, "s.jsonl") == (
        "s.jsonl: marks of a generator cleaned in 1 (<q> 1, &#39; 1, </s> 1)"
    )
