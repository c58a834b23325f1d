"""A final_best_model of a study that was never run."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from nutgraf.config import Config
from nutgraf.config.load import build_config
from nutgraf.config.systems import system_names
from nutgraf.evaluation import indicators
from nutgraf.generation.decoding import generation_config, recipe
from nutgraf.modeling.adapters import fresh_adapter
from nutgraf.modeling.base_files import public_name
from nutgraf.modeling.base_identity import base_identity
from nutgraf.modeling.load import end_tokens, load_base, load_tokenizer
from nutgraf.report import model_card


def write(base: str, folder: Path, quantization: str = "none") -> Path:
    """Write an adapter with random weights, its settings and its card; return the folder."""
    decoding = {"max_new_tokens": 24, "min_new_tokens": 22, "no_repeat_ngram": 1}
    config = build_config(
        {"model": {"base": base, "dtype": "fp32", "quantization": quantization},
         "lora": {"r": 4, "alpha": 8}, "generate": decoding}
    )  # fmt: skip
    with fresh_adapter(load_base(config.model), config.lora, seed=1) as model:
        torch.manual_seed(1)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.08)
        model.save_pretrained(str(folder))
    adapter = json.loads((folder / "adapter_config.json").read_text())
    name, revision = public_name(config.model)
    adapter |= {"base_model_name_or_path": name, "revision": revision}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    tokenizer = load_tokenizer(config.model)
    tokenizer.save_pretrained(str(folder))
    end_ids = end_tokens(config.model)
    generation_config(tokenizer, config.generate, end_ids).save_pretrained(str(folder))
    rouge = {"rouge1": 40.5, "rouge2": 20.25, "rougeL": 30.0, "rougeLsum": 35.125}
    ends = {f"{kind}_{end}": mean + by for kind, mean in rouge.items()
            for end, by in (("low", -2.0), ("high", 2.5))}  # fmt: skip
    ends["system"] = "best"
    row = {"source": "measured", "n": 100, **rouge, **ends, "perplexity": None}
    rates = [{"kind": kind, "n": 100, "rate": 7.0, "low": 3.4, "high": 13.7, "reference": 1.0}
             for kind in indicators.FAULTS]  # fmt: skip
    splits = {"train": {"sampled": 900}, "validation": {"sampled": 64}, "test": {"sampled": 100}}
    train = {"learning_rate": 2e-3, "weight_decay": 0.01, "gradient_accumulation_steps": 2,
             "micro_batch_size": 4, "seed": 42, "examples": 896, "steps": 112, "seconds": 91.2,
             "lora_r": 4, "lora_alpha": 8, "device": "cpu", "dtype": "fp32"}  # fmt: skip
    table = [{**row, "system": system} for system in system_names(Config())]
    table.append({"source": "published", "system": "BART-large"})
    about = {
        "base": base_identity(config.model),
        **{name: getattr(config, name).model_dump(mode="json")
           for name in ("model", "prompt", "generate")},
        "recipe": recipe(tokenizer, config.prompt, end_ids),
        "train": train,
        "study": model_card.study_record(config, table, ends, rates, splits),
    }  # fmt: skip
    (folder / "nutgraf.json").write_text(json.dumps(about))
    (folder / "README.md").write_text(model_card.model_card(about, "adapter"))
    return folder
