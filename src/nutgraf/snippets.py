"""How a model is loaded in other programs: what the model card shows and Ollama is told.

All of it is typed in the model's folder, with an article in `article.txt`. The tests run each block
of Python whose program is installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

About = Mapping[str, Any]

_VLLM = "This follows its documentation and was not run by nutgraf's tests:"
_OLLAMA = "What is typed for Ollama follows its documentation and was not run by nutgraf's tests:"


def use(about: About, form: str) -> str:
    """The section on loading a model of that form, `adapter`, `merged` or `gguf`."""
    blocks = {"adapter": _adapter, "merged": _merged, "gguf": _gguf}[form](about)
    return "\n\n".join(blocks)


def modelfile(about: About) -> str:
    """What Ollama is told of `model.gguf`: prompt, decoding, context."""
    template = ""
    if about["prompt"]["template"] == "plain":
        template = 'TEMPLATE """Summarize: {{ .Prompt }}\n\nSummary:"""\n'
    tokens = about["generate"]["max_new_tokens"]
    return (
        f"FROM ./model.gguf\n{template}PARAMETER temperature 0\nPARAMETER num_predict {tokens}\n"
        f"PARAMETER num_ctx {about['prompt']['max_tokens'] + tokens}\n"
    )


def _adapter(about: About) -> Iterator[str]:
    yield _nutgraf()
    if about["base"]["base"] == "pocket":
        yield (
            "Its base is inside the Python package nutgraf and nowhere else: other programs need "
            "that package beside them, or the merged model, which needs nothing else:"
        )
    else:
        yield "Other programs load it with its base, or merged, as a model that needs nothing else:"
    yield _console("nutgraf export --model . --to ../merged --format merged")
    imports, base = _base(about)
    yield "With transformers and peft:"
    yield _python(
        f"""{imports}from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({base})
model = PeftModel.from_pretrained(base, ".").eval()
tokenizer = AutoTokenizer.from_pretrained(".")
"""
        + _generate(about)
    )
    yield f"With vLLM. {_VLLM}"
    source, _, revision = base.partition(", revision=")
    pinned = f", revision={revision}" if revision else ""
    yield _python(
        f"""# vLLM
{imports}from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

llm = LLM({source}{pinned}, enable_lora=True, max_lora_rank={max(8, about["train"]["lora_r"])})
"""
        + _vllm(about, ', lora_request=LoRARequest("nutgraf", 1, ".")')
    )
    yield from _to_gguf(about)


def _merged(about: About) -> Iterator[str]:
    yield _nutgraf()
    yield "With transformers:"
    yield _python(
        """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".").eval()
tokenizer = AutoTokenizer.from_pretrained(".")
"""
        + _generate(about)
    )
    yield f"With vLLM. {_VLLM}"
    yield _python(
        """# vLLM
from vllm import LLM, SamplingParams

llm = LLM(".")
"""
        + _vllm(about)
    )
    yield from _to_gguf(about)


def _to_gguf(about: About) -> Iterator[str]:
    if about["base"]["base"] == "pocket":
        yield "llama.cpp and Ollama do not know the pocket model's tokenizer."
        return
    yield f"With llama.cpp and Ollama, as GGUF; LLAMA_CPP is a copy of llama.cpp. {_OLLAMA}"
    yield _console(
        "nutgraf export --model . --to ../gguf --format gguf --llama-cpp LLAMA_CPP",
        "cd ../gguf",
        *_ollama(),
    )


def _gguf(about: About) -> Iterator[str]:
    yield "With llama-cpp-python:"
    tokens = about["generate"]["max_new_tokens"]
    yield _python(
        f"""# llama-cpp-python
from pathlib import Path

from llama_cpp import Llama

model = Llama("model.gguf", n_ctx={about["prompt"]["max_tokens"] + tokens}, verbose=False)
article = Path("article.txt").read_text(encoding="utf-8").strip()
"""
        + (
            f"""prompt = f"Summarize: {{article}}\\n\\nSummary:"
written = model.create_completion(prompt, max_tokens={tokens}, temperature=0)
print(written["choices"][0]["text"].strip())
"""
            if about["prompt"]["template"] == "plain"
            else f"""messages = [{{"role": "user", "content": f"Summarize: {{article}}"}}]
written = model.create_chat_completion(messages, max_tokens={tokens}, temperature=0)
print(written["choices"][0]["message"]["content"].strip())
"""
        )
    )
    yield "With Ollama:"
    yield _console('ollama create news -f Modelfile\n$ ollama run news "$(cat article.txt)"')


def _generate(about: About) -> str:
    if about["prompt"]["template"] == "plain":
        ids = 'tokenizer(f"Summarize: {article}\\n\\nSummary:", return_tensors="pt")'
    else:
        ids = """tokenizer.apply_chat_template(
    [{"role": "user", "content": f"Summarize: {article}"}],
    add_generation_prompt=True, return_dict=True, return_tensors="pt",
)"""
    return f"""article = open("article.txt", encoding="utf-8").read().strip()
prompt = {ids}
settings = {{"max_new_tokens": {about["generate"]["max_new_tokens"]}, \
"num_beams": {about["generate"]["num_beams"]}, "do_sample": False}}
written = model.generate(**prompt, **settings, pad_token_id=tokenizer.pad_token_id)[0]
print(tokenizer.decode(written[prompt["input_ids"].shape[1]:], skip_special_tokens=True).strip())
"""


def _vllm(about: About, lora: str = "") -> str:
    tokens = about["generate"]["max_new_tokens"]
    settings = f"SamplingParams(temperature=0, max_tokens={tokens})"
    if about["prompt"]["template"] == "plain":
        asked = f'llm.generate([f"Summarize: {{article}}\\n\\nSummary:"], {settings}{lora})'
    else:
        message = '[{"role": "user", "content": f"Summarize: {article}"}]'
        asked = f"llm.chat({message}, {settings}{lora})"
    return f"""article = open("article.txt", encoding="utf-8").read().strip()
written = {asked}
print(written[0].outputs[0].text.strip())
"""


def _base(about: About) -> tuple[str, str]:
    """The imports that naming the base needs, and the arguments that name it."""
    name, revision = about["base"]["base"], about["base"]["revision"]
    if name == "pocket":
        imports = "from importlib.resources import files\n\n"
        return imports, 'str(files("nutgraf.pocket") / "checkpoint")'
    return "", f'"{name}"' + (f', revision="{revision}"' if revision else "")


def _nutgraf() -> str:
    return "With nutgraf:\n\n" + _console("nutgraf summarize --model . article.txt")


def _ollama() -> tuple[str, str]:
    return "ollama create news -f Modelfile", 'ollama run news "$(cat article.txt)"'


def _console(*commands: str) -> str:
    return "\n".join(["```console", *(f"$ {command}" for command in commands), "```"])


def _python(code: str) -> str:
    return f"```python\n{code}```"
