"""Build the pocket tokenizer and checkpoint from nothing.

    python -m tools.pocket.build --out DIR                 about 80 minutes on two CPU cores
    python -m tools.pocket.build --out DIR --minutes 10    a rougher one
    python -m tools.pocket.build --out DIR --resume        continues a build that was stopped

Writes `model.safetensors` (fp16), the configuration and tokenizer files, `recipe.json` (settings,
seeds, versions, machine) and `curve.csv` (losses and probes). Every probe also writes the model as
it is then to DIR, so an interrupted build leaves a checkpoint that works and can be resumed.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from dataclasses import asdict, fields
from pathlib import Path

import tokenizers
import torch
import transformers
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tools.pocket.pretrain import Settings, new_model, pretrain, read_curve
from tools.pocket.tokenizer import BOS, EOS, PAD, name_pieces, train_tokenizer


def save_model(model: LlamaForCausalLM, out: Path) -> None:
    """Write the model in fp16 safetensors with its configuration; `model` stays as it is."""
    half = copy.deepcopy(model).cpu().half()
    half.config.use_cache = True
    half.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=False
    )
    half.save_pretrained(out)


def _recipe(settings: Settings, minutes: float, pieces: dict[str, dict[int, float]]) -> dict:
    return {
        "command": f"python -m tools.pocket.build --out DIR --minutes {minutes:g}"
        + (" --compile" if settings.compile else ""),
        "settings": asdict(settings),
        "minutes": minutes,
        "name_pieces": pieces,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "machine": {
            "device": "cuda" if torch.cuda.is_available() else "cpu",
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
        },
    }


def build(
    out: Path,
    settings: Settings,
    minutes: float,
    articles: int = 6000,
    resume: bool = False,
) -> dict[str, float]:
    """Build into `out`; return the last probes. `articles` is for training the tokenizer.

    With `resume`, tokenizer and weights in `out` are loaded and trained on.
    """
    out.mkdir(parents=True, exist_ok=True)
    if resume:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(out)
        model = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32)
    else:
        tokenizer = train_tokenizer(settings.seed, articles)
        tokenizer.save_pretrained(out)
        model = new_model(settings)
    pieces = {
        "seen": name_pieces(tokenizer, held_out=False),
        "held_out": name_pieces(tokenizer, held_out=True),
    }
    resumed_at = int(read_curve(out / "curve.csv")[-1]["step"]) if resume else None
    parameters = sum(weight.numel() for weight in model.parameters())
    print(f"{parameters:,} parameters; names by number of tokens: {pieces}", flush=True)
    started = time.monotonic()
    result = pretrain(
        model, tokenizer, settings, out / "curve.csv", minutes, lambda m: save_model(m, out), resume
    )
    recipe = _recipe(settings, minutes, pieces)
    recipe["result"] = {
        "parameters": parameters,
        "resumed_at_step": resumed_at,
        **result,
        "wall_seconds": round(time.monotonic() - started, 1),
    }
    (out / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
    return result


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.pocket.build", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--minutes", type=float, default=120.0, help="longest wall time of pretraining (minutes)"
    )
    parser.add_argument("--resume", action="store_true", help="continue the build in OUT")
    for field in fields(Settings):
        option = "--" + field.name.replace("_", "-")
        kind = type(field.default)
        if kind is bool:
            parser.add_argument(option, action="store_true", help="off unless given")
        else:
            parser.add_argument(
                option, type=kind, default=field.default, help="default %(default)s"
            )
    options = parser.parse_args()
    settings = {field.name: getattr(options, field.name) for field in fields(Settings)}
    build(options.out, Settings(**settings), options.minutes, resume=options.resume)


if __name__ == "__main__":
    main()
