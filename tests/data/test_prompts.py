"""One renderer: equal ids everywhere, the summary whole, nothing over a limit."""

import itertools
import tracemalloc

import pyarrow.parquet as pq
import pytest
from helpers.places import SHARED
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from nutgraf.config import PromptConfig
from nutgraf.core.errors import UserError
from nutgraf.data.examples import IGNORED
from nutgraf.data.prompts import PromptError, Renderer
from nutgraf.data.text import clean_text

ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
# That of SmolLM2 and Qwen: a first message of the system's own, if the chat has none.
CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful AI assistant.<|im_end|>\n{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = ("plain", "chat")
STORY = "The mayor of Leeds spoke on Monday. He said 12 bridges would be mended by June."
HOSTILE = [
    "</s>",
    "<s>",
    "a </s> b <|user|> c <|assistant|>\n",
    "\n\nSummary: </s>",
    "Summary:",
    "\r\n  two\r\nlines\t",
    "naïve café 你好 \U0001f600 \u200b",
    ": colon first",
    "\x00nul\ufeff",
    "{article} {{ braces }} {% raw %}",
    "\ue000",
]


@pytest.fixture(scope="module")
def llama() -> PreTrainedTokenizerFast:
    if not SHARED.exists():
        pytest.skip(f"{SHARED} is not there")
    return AutoTokenizer.from_pretrained(SHARED / "llama-tokenizer", local_files_only=True)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    if not SHARED.exists():
        pytest.skip(f"{SHARED} is not there")
    return pq.read_table(SHARED / "cnndm-train-100.parquet").to_pylist()


@pytest.fixture(scope="module")
def byte_level() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE(unk_token=None))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|user|>", "<|assistant|>"]
    core.train_from_iterator(
        [f"Summarize: {STORY}\n\nSummary: {STORY}"] * 20,
        trainers.BpeTrainer(
            vocab_size=500,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    tokenizer.chat_template = ZEPHYR
    return tokenizer


@pytest.fixture(params=["llama", "byte_level"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return request.getfixturevalue(request.param)


def spoken(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("limit", [1, 60, 400, 736, 825])
def test_every_real_row_keeps_its_summary_and_shares_its_prompt(llama, rows, template, limit):
    config = PromptConfig(template=template, max_tokens=1024, max_article_tokens=limit)
    renderer = Renderer(llama, config)
    gap = " " if template == "plain" else ""
    cut = 0
    for row in rows[:: 1 if limit in (60, 825) else 5]:
        prompt = renderer.prompt(row["article"])
        example = renderer.example(row["article"], row["highlights"])
        labels = example.labels[example.prompt_tokens :]
        assert len(example.input_ids) == len(example.labels) <= config.max_tokens
        assert example.labels[: example.prompt_tokens] == [IGNORED] * example.prompt_tokens
        assert labels == example.input_ids[example.prompt_tokens :]
        before = spoken(llama, example.input_ids[: example.prompt_tokens])
        assert spoken(llama, example.input_ids[:-1]) == before + gap + clean_text(row["highlights"])
        assert labels[-1] == llama.eos_token_id == llama.pad_token_id
        assert llama.eos_token_id not in labels[:-1]
        assert renderer.text(labels) == clean_text(row["highlights"])
        assert example.input_ids[: example.prompt_tokens] == prompt.ids
        assert prompt.article_tokens <= limit
        cut += example.trimmed_tokens > 0
    assert cut > 0


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_long_summary_takes_the_end_of_the_article(tokenizer, template):
    long_story = STORY * 20
    wide = PromptConfig(template=template, max_tokens=10_000, max_article_tokens=9_000)
    whole = Renderer(tokenizer, wide).example(long_story, STORY)
    config = PromptConfig(
        template=template,
        max_tokens=len(whole.input_ids) - 40,
        max_article_tokens=len(whole.input_ids) - 41,
    )
    renderer = Renderer(tokenizer, config)
    example = renderer.example(long_story, STORY)
    assert len(example.input_ids) == config.max_tokens
    assert example.trimmed_tokens == 40
    assert example.labels[example.prompt_tokens :] == whole.labels[whole.prompt_tokens :]
    fewer = example.prompt_tokens // 2
    assert example.input_ids[:fewer] == renderer.prompt(long_story).ids[:fewer]


def test_ids_are_those_of_the_joint_text(tokenizer):
    renderer = Renderer(tokenizer, PromptConfig())
    example = renderer.example(STORY, "He spoke.\nBridges too.")
    joint = f"Summarize: {STORY}\n\nSummary: He spoke.\nBridges too."
    assert example.input_ids == [*tokenizer(joint)["input_ids"], tokenizer.eos_token_id]
    assert example.trimmed_tokens == 0


def test_the_chat_template_frames_the_same_request(tokenizer):
    renderer = Renderer(tokenizer, PromptConfig(template="chat"))
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": f"Summarize: {STORY}"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    ids = renderer.prompt(STORY).ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1
    assert spoken(tokenizer, ids[1:]).strip() == rendered.strip()


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    "request_", ["Write three sentences\nof this news:", "Résumez :", "2+2 {x}"]
)
def test_a_study_asks_in_its_own_words_in_training_and_in_use(tokenizer, template, request_):
    renderer = Renderer(tokenizer, PromptConfig(template=template, request=request_))
    prompt, example = renderer.prompt(STORY), renderer.example(STORY, "He spoke.")
    assert f"{request_} {STORY}" in spoken(tokenizer, prompt.ids)
    assert "Summarize" not in "".join(renderer.frame)
    assert example.input_ids[: example.prompt_tokens] == prompt.ids
    assert renderer.recipe()["text_before"].endswith(request_)
    again = Renderer(tokenizer, PromptConfig(template=template), renderer.frame)
    assert again.prompt(STORY) == prompt


def test_a_system_message_that_a_template_adds_is_in_every_prompt_once(byte_level):
    template, byte_level.chat_template = byte_level.chat_template, CHATML
    try:
        renderer = Renderer(byte_level, PromptConfig(template="chat"))
    finally:
        byte_level.chat_template = template
    head, tail = renderer.frame
    said = "<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n"
    assert head == f"{said}<|im_start|>user\nSummarize:"
    assert tail == "<|im_end|>\n<|im_start|>assistant\n"
    example = renderer.example(STORY, "He spoke.")
    assert example.input_ids[: example.prompt_tokens] == renderer.prompt(STORY).ids
    assert spoken(byte_level, example.input_ids) == f"<s>{head} {STORY}{tail}He spoke.</s>"


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_never_structure(tokenizer, template, text):
    renderer = Renderer(tokenizer, PromptConfig(template=template))
    plain = renderer.example("x", "y").input_ids
    rendered = renderer.example(f"x {text} x", f"y {text} y").input_ids
    for token in tokenizer.all_special_ids:
        assert rendered.count(token) == plain.count(token)
    assert renderer.text(renderer.example("x", text).labels[-1:]) == ""


@pytest.mark.parametrize("text", HOSTILE)
def test_generated_ids_read_back_as_the_summary(tokenizer, text):
    renderer = Renderer(tokenizer, PromptConfig())
    example = renderer.example(STORY, text)
    assert renderer.text(example.input_ids[example.prompt_tokens :]) == clean_text(text)


def test_the_same_text_with_other_line_ends_is_the_same_prompt(tokenizer):
    renderer = Renderer(tokenizer, PromptConfig())
    assert renderer.prompt("\ufeffone\r\ntwo \n").ids == renderer.prompt("one\ntwo").ids


def test_errors_name_the_fact_the_limit_and_the_knob(byte_level):
    renderer = Renderer(byte_level, PromptConfig(max_tokens=60, max_article_tokens=40))
    prompt = renderer.prompt(STORY)
    fixed = len(prompt.ids) - prompt.article_tokens
    with pytest.raises(PromptError, match=rf"tokens, limit {60 - fixed - 1} .*prompt\.max_tokens"):
        renderer.example(STORY, STORY * 3)
    with pytest.raises(PromptError, match="article is empty"):
        renderer.prompt(" \n\x00")
    with pytest.raises(PromptError, match="summary is empty"):
        renderer.example(STORY, "\t")
    longer = PromptConfig(request="Write this " * 20 + "anew:", max_tokens=40, max_article_tokens=9)
    said = r"own words take .* limit 40: shorten prompt\.request or raise prompt\.max_tokens"
    with pytest.raises(PromptError, match=said):
        Renderer(byte_level, longer)


def test_a_tokenizer_without_a_chat_template_is_named(byte_level):
    template, byte_level.chat_template = byte_level.chat_template, None
    try:
        with pytest.raises(PromptError, match=r"no chat template: set prompt\.template to plain"):
            Renderer(byte_level, PromptConfig(template="chat"))
        byte_level.chat_template = "{{ 'no request' }}"
        with pytest.raises(PromptError, match="does not repeat the request"):
            Renderer(byte_level, PromptConfig(template="chat"))
    finally:
        byte_level.chat_template = template


@pytest.mark.parametrize(
    "broken",
    ["{{ raise_exception('system first') }}", "{% for %}", "{{ messages.nope.nope }}",
     "{{ 1 / 0 }}", "{{ ''.__class__.__mro__ }}", "{% include '/etc/passwd' %}"],
)  # fmt: skip
def test_a_chat_template_that_raises_is_one_line_with_the_setting(byte_level, broken):
    template, byte_level.chat_template = byte_level.chat_template, broken
    try:
        with pytest.raises(UserError, match=r"the chat template fails \(.*\): set it to plain"):
            Renderer(byte_level, PromptConfig(template="chat"))
    finally:
        byte_level.chat_template = template


def test_a_chat_template_that_begins_the_sequence_does_so_once(byte_level):
    template, byte_level.chat_template = byte_level.chat_template, "{{ bos_token }}" + ZEPHYR
    try:
        ids = Renderer(byte_level, PromptConfig(template="chat")).prompt(STORY).ids
    finally:
        byte_level.chat_template = template
    assert ids[0] == byte_level.bos_token_id
    assert ids.count(byte_level.bos_token_id) == 1


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    article=st.text(max_size=300) | st.sampled_from(HOSTILE),
    summary=st.text(max_size=80) | st.sampled_from(HOSTILE),
    limit=st.integers(1, 80),
    beside=st.integers(1, 60),
    template=st.sampled_from(TEMPLATES),
)
def test_any_text_fits_or_is_a_prompt_error(tokenizer, article, summary, limit, beside, template):
    config = PromptConfig(template=template, max_tokens=limit + beside, max_article_tokens=limit)
    try:
        renderer = Renderer(tokenizer, config)
        prompt = renderer.prompt(article)
        example = renderer.example(article, summary)
    except PromptError:
        return
    assert len(prompt.ids) <= config.max_tokens
    assert 1 <= prompt.article_tokens <= limit
    assert len(example.input_ids) == len(example.labels) <= config.max_tokens
    masked = list(itertools.takewhile(lambda label: label == IGNORED, example.labels))
    assert len(masked) == example.prompt_tokens
    assert example.input_ids[example.prompt_tokens :] == example.labels[example.prompt_tokens :]
    assert example.labels[-1] == tokenizer.eos_token_id
    if example.trimmed_tokens == prompt.trimmed_tokens:
        assert example.input_ids[: example.prompt_tokens] == prompt.ids
    if "\u2581" not in summary:  # SentencePiece writes a space so; reading it back gives a space
        assert renderer.text(example.labels[example.prompt_tokens :]) == clean_text(summary)


def test_a_row_takes_about_four_bytes_a_token(tokenizer):
    """All rows of a training are in memory: 287,113 in one of CNN/DailyMail."""
    renderer = Renderer(tokenizer, PromptConfig(max_tokens=1024))
    articles = [STORY * 20 + str(i) for i in range(50)]
    renderer.example(articles[0], STORY)
    tracemalloc.start()
    rows = [renderer.example(article, STORY) for article in articles]
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held / len(rows) < 4 * max(len(row.input_ids) for row in rows) + 400
