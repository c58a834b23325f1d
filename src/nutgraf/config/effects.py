"""Say what each setting decides, so that a changed value makes that again and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from nutgraf.config.evaluation import RivalConfig
from nutgraf.config.study import Config
from nutgraf.config.systems import fits_choice

# The artefacts that each setting decides; the others follow from these, if they come out different.
# Empty: it changes speed, memory or places, and results at most in the last bits of their numbers.
DECIDES: dict[str, str] = {
    "run": "report",  # its pages name the folder
    "storage": "",
    "data.source": "data",
    "data.name": "data",
    "data.revision": "data",
    "data.train": "data",
    "data.validation": "data",
    "data.test": "data",
    "data.id_column": "data",
    "data.article_column": "data",
    "data.summary_column": "data",
    "data.split_column": "data",
    "data.train_examples": "data",
    "data.validation_examples": "data",
    "data.test_examples": "data",
    "data.max_rejected": "data",
    "data.allow_overlap": "data",
    "data.seed": "data",
    "prompt.request": "data",
    "prompt.template": "data",
    "prompt.max_tokens": "data",
    "prompt.max_article_tokens": "data",
    # A local base decides by what is in it.
    "model.base": "data search models rounds summaries facts choice",
    "model.revision": "data search models rounds summaries facts choice",
    "model.quantization": "search models rounds summaries facts choice",
    "model.double_quantization": "search models rounds summaries facts choice",  # of nf4
    "model.dtype": "search models rounds summaries facts choice",
    "model.device": "",
    # Of `lora` and `train`, those that are searched decide no trial, nor the best model.
    "lora.r": "search models",
    "lora.alpha": "search models",
    "lora.dropout": "search models",
    "lora.target_modules": "search models",
    "train.max_examples": "search models",
    "train.max_steps": "search models",
    "train.micro_batch_size": "search models",  # their product; with dropout, this one too
    "train.gradient_accumulation_steps": "search models",
    "train.learning_rate": "search models",
    "train.weight_decay": "search models",
    "train.warmup_steps": "search models",
    "train.schedule": "search models",
    "train.max_grad_norm": "search models",
    "train.eval_every": "search models",
    "train.eval_examples": "search models",
    "train.samples": "",
    "train.activation_checkpointing": "",
    "train.seeds": "search models",  # the search and each model: its own
    "train.rounds": "rounds",  # how many there are; each has an artefact of its own
    "preference.articles": "rounds choice",
    "preference.candidates": "rounds choice",
    "preference.temperature": "rounds choice",
    "preference.reward": "rounds",
    "preference.learning_rate": "rounds",
    "preference.beta": "rounds",
    "preference.likelihood": "rounds",
    "search.trials": "search",
    "search.space": "search",
    "search.concurrent": "",  # the value at the start of a search orders its proposals to the end
    "search.cpus_per_trial": "",
    "search.gpus_per_trial": "",
    "search.together": "",
    "search.trial_minutes": "",
    "search.grace_evaluations": "search",
    "search.reduction_factor": "search",
    "search.finalists": "search",
    "search.rouge_examples": "search",
    "search.seed": "search",
    "generate.max_new_tokens": "search rounds summaries choice",
    "generate.min_new_tokens": "search rounds summaries choice",
    "generate.no_repeat_ngram": "search rounds summaries choice",
    "generate.max_sentences": "search rounds summaries choice",
    "generate.whole_sentences": "search rounds summaries choice",
    "generate.num_beams": "search summaries",
    "generate.length_penalty": "search summaries",  # of several beams
    "generate.candidates": "summaries",
    "generate.temperature": "summaries",
    "generate.top_p": "rounds summaries choice",
    "generate.seed": "rounds summaries choice",
    "generate.choose": "summaries choice",  # of best_chosen, and of the model to take away
    "generate.batch_size": "",
    # Of summaries those of extracts alone.
    "score.tokenizer": "data search rounds summaries choice scores comparison",
    "score.resamples": "comparison",
    "score.seed": "comparison",
    "facts.articles": "facts comparison",
    "tracking.to": "",
    "ray.address": "",
    "ray.train_workers": "",  # with dropout, the models
    "ray.fsdp": "",
    "ray.workers": "",
    "ray.cpus_per_worker": "",
    "ray.gpus_per_worker": "",
    "rivals.NAME.model": "summaries",  # by what is in it, if it is a folder
    "rivals.NAME.revision": "summaries",
    "rivals.NAME.batch_size": "",
    "rivals.NAME.file": "summaries",
    "rivals.NAME.id": "summaries",
    "rivals.NAME.summary": "summaries",
}
OF_CANDIDATES = ("candidates", "temperature", "top_p", "seed", "choose")
_SPLIT = ("train.micro_batch_size", "train.gradient_accumulation_steps")


def deciding(config: Config, artefact: str) -> dict[str, Any]:
    """Return the settings that decide an artefact (a column of `DECIDES`), by dotted name.

    `any` is for those that decide at least one, apart from the report alone.
    """
    wanted = {name for name, kinds in DECIDES.items() if artefact in kinds.split()}
    if artefact == "any":
        wanted = {name for name, kinds in DECIDES.items() if kinds not in ("", "report")}
    settings = {name: value for name, value in _flat(config) if _row(name) in wanted}
    if config.model.quantization == "none":
        settings.pop("model.double_quantization", None)
    if config.facts.articles == 0:
        settings.pop("facts.articles", None)
    if config.generate.num_beams == 1:
        settings.pop("generate.length_penalty", None)
    in_rounds = artefact == "rounds" or (artefact == "any" and config.train.rounds > 0)
    if config.generate.candidates == 1 and not in_rounds:
        for name in OF_CANDIDATES:
            settings.pop(f"generate.{name}", None)
    if artefact == "any":
        idle_kinds = {"rounds"} if not in_rounds else set()
        idle_kinds |= {"choice"} if not fits_choice(config) else set()
        settings = {n: v for n, v in settings.items() if not _decides_only(n, idle_kinds)}
    if artefact == "rounds":
        del settings["train.rounds"]  # the first does not depend on the second
    if artefact == "search":
        for name in config.search.space:
            settings.pop(name, None)
    if artefact in ("search", "models", "any"):
        _merge_batch(settings, config, artefact)
    return settings


def undecisive(config: Config) -> dict[str, Any]:
    """Return the other settings, which a manifest records as they were."""
    return {name: value for name, value in _flat(config) if not DECIDES[_row(name)]}


def deciding_training(config: Config) -> dict[str, Any]:
    """Return the fields of `lora` and `train` that decide one training with them."""
    settings = deciding(config, "models")
    return {n: v for n, v in settings.items() if n.startswith(("lora.", "train."))}


def _merge_batch(settings: dict[str, Any], config: Config, artefact: str) -> None:
    """Let the effective batch stand for its two factors, of which neither is searched."""
    micro_batch, accumulated = (settings.pop(name, None) for name in _SPLIT)
    if micro_batch and accumulated:
        settings[" × ".join(_SPLIT)] = micro_batch * accumulated
    else:
        settings |= {n: v for n, v in zip(_SPLIT, (micro_batch, accumulated), strict=True) if v}
    if config.lora.dropout or (artefact == "search" and "lora.dropout" in config.search.space):
        # Its masks are drawn for a micro-batch, in each process.
        settings |= {_SPLIT[0]: micro_batch} if micro_batch else {}
        settings |= {"ray.train_workers": config.ray.train_workers} if artefact == "models" else {}


def _flat(config: Config) -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value as JSON) of every setting."""
    for section, fields in config.model_dump(mode="json").items():
        if section == "rivals":
            for rival, values in fields.items():
                yield from ((f"rivals.{rival}.{name}", value) for name, value in values.items())
        elif isinstance(fields, dict):
            yield from ((f"{section}.{name}", value) for name, value in fields.items())
        else:
            yield section, fields


def _row(name: str) -> str:
    """Return the row of `DECIDES` for a setting."""
    return f"rivals.NAME.{name.split('.')[2]}" if name.startswith("rivals.") else name


def _decides_only(name: str, kinds: set[str]) -> bool:
    """Return whether a setting decides nothing but artefacts of these kinds."""
    return set(DECIDES[_row(name)].split()) <= kinds


def idle(config: Config) -> Iterator[str]:
    """Yield a line for each setting that is given, and has no effect beside another."""
    data, model, rounds = config.data, config.model, config.train.rounds
    drawn = [n for n in OF_CANDIDATES[1:] if not (rounds and "rounds" in DECIDES[f"generate.{n}"])]
    preferred = list(type(config.preference).model_fields)
    if fits_choice(config):
        preferred = [n for n in preferred if "choice" not in DECIDES[f"preference.{n}"]]
    files = ["name", "revision", "split_column"]
    columns = ["id_column", "article_column", "summary_column", "allow_overlap"]
    local_base = model.base == "pocket" or os.path.isabs(model.base)
    no_revision = "model.base is not on the Hub" if local_base else "smollm2 has its own"
    rules: list[tuple[object, str, list[str], str]] = [
        (data.train, "data", ["source", *files], "data.train is given"),
        (data.is_newswire, "data", [*files, *columns], "data.source is newswire"),
        (os.path.isabs(data.source), "data", ["revision"], "data.source is not on the Hub"),
        (local_base or model.base == "smollm2", "model", ["revision"], no_revision),
        (model.quantization == "none", "model", ["double_quantization"], "nothing is in 4 bits"),
        (config.generate.num_beams == 1, "generate", ["length_penalty"], "num_beams is 1"),
        (config.generate.candidates == 1, "generate", drawn, "candidates is 1"),
        (rounds == 0, "preference", preferred, "train.rounds is 0"),
    ]
    for rival, own in config.rivals.items():
        section = f"rivals.{rival}"
        rules += [
            (own.file, section, ["revision", "batch_size"], f"{section}.file is given"),
            (own.model, section, ["id", "summary"], f"{section}.model is given"),
            (os.path.isabs(own.model or ""), section, ["revision"], "the model is not on the Hub"),
        ]
    usual = {name: field.default for name, field in RivalConfig.model_fields.items()}
    rivals = {f"rivals.{rival}.{n}": value for rival in config.rivals for n, value in usual.items()}
    values, defaults = dict(_flat(config)), dict(_flat(Config())) | rivals
    reasons = {
        f"{section}.{n}": why for applies, section, names, why in rules if applies for n in names
    }
    for name, why in reasons.items():
        if values[name] != defaults[name]:
            yield f"{name} {values[name]} has no effect: {why}"
