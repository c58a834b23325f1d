"""Train: the baseline with the configuration's own settings, the best with those of the search."""

from __future__ import annotations

import pandas as pd
import yaml

from nutgraf import articles
from nutgraf.config import replace
from nutgraf.model import choose_device, fresh_adapter, identity, load_base, load_tokenizer
from nutgraf.progress import say
from nutgraf.prompts import Renderer
from nutgraf.runfolder import Artefact, RunFolder, write_json
from nutgraf.settings import Config
from nutgraf.systems import repeated
from nutgraf.trainer import fit

SETTINGS = {"prompt", "model", "lora", "train"}


def run(config: Config, folder: RunFolder, force: bool = False) -> bool:
    """Make models/baseline and models/best, and both once more a further seed.

    Each holds the adapter, history.csv and train.json.
    """
    folder.manifest("search")  # a Failure that says what to run, where there is none
    chosen = yaml.safe_load((folder / "search" / "best.yaml").read_text(encoding="utf-8"))
    models = {"baseline": (config, ["data"]), "best": (replace(config, chosen), ["data", "search"])}
    first = {name: (name, config.train.seed) for name in models}
    anything = False
    for name, (model, seed) in {**first, **repeated(config.train.seeds)}.items():
        settings, inputs = models[model]
        settings = replace(settings, {"train.seeds": [seed]})
        made = folder.artefact(
            f"models/{name}",
            inputs=inputs,
            settings=settings.model_dump(mode="json", include=SETTINGS),
        )
        if made.is_current and not force:
            say(f"{name}: done before")
            continue
        _train(name, settings, folder, made)
        anything = True
    return anything


def _train(name: str, config: Config, folder: RunFolder, made: Artefact) -> None:
    with made.writing() as scratch:
        out = scratch / "models" / name
        tokenizer = load_tokenizer(config.model)
        renderer = Renderer(tokenizer, config.prompt)
        train, validation = (
            [renderer.example(a.article, a.highlights) for a in articles.read(folder.data(split))]
            for split in ("train", "validation")
        )
        device, base = choose_device(config.model), load_base(config.model)
        with fresh_adapter(base, config.lora, config.train.seed) as model:
            done = fit(
                model, tokenizer, train, validation, config.train, device, out, progress=name
            )
        say(f"{name}: validation loss {done.best.loss:.3f} after {done.seconds:.0f} s")
        pd.DataFrame(done.history_records()).to_csv(out / "history.csv", index=False)
        write_json(
            out / "train.json",
            {
                **done.record(config.train),
                "lora_r": config.lora.r,
                "lora_alpha": config.lora.alpha,
                "device": device.name,
                "dtype": device.dtype_name,
                "base": identity(config.model),
            },
        )
