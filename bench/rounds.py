"""What a second training brings, on candidates that the model wrote of its training articles.

Of each article the model writes several candidates, which get a reward: ROUGE against the reference
or agreement with each other, which needs no reference. Then its adapter is trained on, in as many
rows by each method, and the held-out articles of `recipe.py` are summarized greedily:

    references   the references once more: what longer training would bring
    rejection    the candidate with the highest reward
    preference   the best against the worst: DPO (Rafailov et al. 2023, arXiv:2305.18290)
    anchored     the same, and the best one's likelihood (Pang et al. 2024, arXiv:2404.19733)
    normalized   DPO of likelihoods a token (Meng et al. 2024, arXiv:2405.14734, with a start)
    ranking      best, middle and worst in the order of their rewards, beside the reference: BRIO
                 (Liu et al. 2022, arXiv:2203.16804)

With `--study` it is the best model of a finished study that is trained on, on the study's training
articles, and the study's test articles are summarized. What has been written and trained stays in
the folder.

    python bench/rounds.py --rows cnndm-train-cased.parquet --adapter DIR/adapter --out DIR
    python bench/rounds.py --study runs/smollm2 --methods preference --out DIR
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from levers import Lever
from recipe import Arguments, command_line, indicators_of, measure
from safetensors.torch import load_file

from nutgraf.config import Config
from nutgraf.config.load import load_config, with_overrides
from nutgraf.core.files import digest
from nutgraf.data import article_store
from nutgraf.data.examples import IGNORED, Example
from nutgraf.data.prompts import Renderer
from nutgraf.evaluation.rouge import score_rouge
from nutgraf.evaluation.significance import paired_difference
from nutgraf.generation.candidate_features import agreement
from nutgraf.generation.decoding import generate
from nutgraf.modeling import adapters
from nutgraf.modeling.adapters import with_adapter
from nutgraf.modeling.load import choose_device, load_base, load_tokenizer
from nutgraf.modeling.losses import summary_losses
from nutgraf.pipeline.artifacts import training_configs
from nutgraf.storage.run_folder import RunFolder
from nutgraf.training.job import TrainingJob
from nutgraf.training.preference import preference_losses
from nutgraf.training.sft_trainer import AdapterTrainer

BETA = 0.1  # DPO: how much a preference may move the model from where it began
MARGIN = 0.02  # BRIO: nats a token between neighbours in the order
PER_TOKEN_BETA = 5.0  # of `normalized`: a summary has about 50 tokens
RATES = {
    "references": 2e-4,
    "rejection": 2e-4,
    "preference": 5e-5,
    "anchored": 5e-5,
    "normalized": 5e-5,
    "ranking": 2e-4,
}
ROWS_OF_ARTICLE = {"references": 1, "rejection": 1, "ranking": 4}  # else a pair
REWARDS = ("reference", "consensus")

# Gets nats and tokens of the rows [articles, rows of an article], and the nats at the beginning.
Objective = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Options(Arguments):
    adapter: Path
    study: Path | None
    articles: int
    candidates: int
    temperature: float
    methods: list[str]
    reward: str


def main() -> None:
    parser = command_line(__doc__, needs_rows=False)
    parser.add_argument("--adapter", type=Path, help="folder of the first training")
    parser.add_argument("--study", type=Path, help="run folder, in place of --rows and --adapter")
    parser.add_argument("--articles", type=int, default=320, help="of which candidates are written")
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--methods", nargs="+", choices=RATES, default=list(RATES))
    parser.add_argument("--reward", choices=REWARDS, default="reference")
    options = parser.parse_args(namespace=Options())
    if not options.study and not (options.rows and options.adapter):
        parser.error("give --study, or --rows and --adapter")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.study:
        options.adapter = RunFolder(options.study).model("best")
        start, training, held_out = of_study(options.study, options)
    else:
        start = options.config_of(Lever(), options.seed)
        training, held_out, _ = options.split()
    if not options.table:
        train_methods(options, start, training[: options.articles], held_out)
    print_table(options.out, held_out)


def of_study(path: Path, options: Options) -> tuple[Config, pd.DataFrame, pd.DataFrame]:
    """Return the configuration of a study's best model, its training and its test articles."""
    folder = RunFolder(path)
    best = training_configs(load_config(folder.config, {}), folder)["best"]
    budget = {"train.max_examples": options.examples, "train.eval_every": options.examples}
    training, test = (
        pd.DataFrame(
            [(row.article, row.reference) for row in article_store.read_split(folder.data(split))],
            columns=["article", "highlights"],
        )
        for split in ("train", "test")
    )
    training = training.sample(frac=1, random_state=options.seed)
    return with_overrides(best, budget), training, test


def train_methods(
    options: Options, start: Config, training: pd.DataFrame, held_out: pd.DataFrame
) -> None:
    """Measure the first training, then train and measure each method."""
    if not (options.out / "before.json").exists():
        (options.out / "before").mkdir(exist_ok=True)
        (options.out / "before" / "training.json").write_text('{"training_seconds": 0}')
        (options.out / "before" / "adapter").symlink_to(options.adapter.resolve())
        measure("before", Lever(), start, training, held_out, options.out)
    candidates = written_candidates(options, start, training)
    for method in options.methods:
        name = method if options.reward == "reference" else f"{method}, {options.reward}"
        if not (options.out / f"{name}.json").exists():
            rows = rows_of(method, start, training, candidates, options.reward)
            settings = {
                "train.learning_rate": RATES[method],
                "train.micro_batch_size": 4,
                "train.gradient_accumulation_steps": 1,
            }
            config = with_overrides(start, settings)
            lever = Lever(patch=lambda _, m=method, r=rows, c=config: second(m, r, c, options))
            measure(name, lever, config, training, held_out, options.out)


def written_candidates(
    options: Options, config: Config, training: pd.DataFrame
) -> list[list[list[int]]]:
    """Return the token ids of each article's candidates; write them to a file, or read them.

    Its name has a hash of the articles: those of other rows are not theirs.
    """
    articles = digest(dict(enumerate(training["article"])))[:8]
    path = options.out / f"candidates-t{options.temperature:g}-{articles}.json"
    if not path.exists():
        several = {"candidates": options.candidates, "temperature": options.temperature}
        settings = config.generate.model_copy(update={**several, "batch_size": 20})
        renderer = Renderer(load_tokenizer(config.model), config.prompt)
        prompts = [renderer.prompt(article).ids for article in training["article"]]
        with with_adapter(load_base(config.model), options.adapter) as model:
            tokenizer, device = load_tokenizer(config.model), choose_device(config.model)
            written = dict(generate(model, tokenizer, prompts, settings, device))
        ids = [[new.ids for new in written[i].written] for i in range(len(prompts))]
        path.write_text(json.dumps(ids))
    candidates: list[list[list[int]]] = json.loads(path.read_text())
    return candidates


def rows_of(
    method: str,
    config: Config,
    training: pd.DataFrame,
    candidates: Sequence[Sequence[Sequence[int]]],
    reward: str,
) -> list[list[Example]]:
    """Return the rows of each article, in the order that the objective of the method takes.

    Articles whose candidates all have the same reward are left out: there is nothing to prefer.
    """
    renderer = Renderer(load_tokenizer(config.model), config.prompt)
    groups = []
    for (_, row), ids in zip(training.iterrows(), candidates, strict=True):
        texts = [renderer.text(new) for new in ids]
        values = _rewards(row["highlights"], texts, reward)
        order = sorted(range(len(ids)), key=lambda i: (-values[i], i))
        best, middle, worst = order[0], order[len(order) // 2], order[-1]
        if values[best] == values[worst]:
            continue
        wanted = {
            "references": [row["highlights"]],
            "rejection": [texts[best]],
            "ranking": [row["highlights"], texts[best], texts[middle], texts[worst]],
        }
        rows = wanted.get(method, [texts[best], texts[worst]])
        groups.append([renderer.example(row["article"], text) for text in rows])
    return groups


def _rewards(reference: str, texts: Sequence[str], reward: str) -> list[float]:
    if reward == "consensus":
        return list(agreement(texts))
    scores = [score_rouge(reference, text) for text in texts]
    return [row["rouge1"] + row["rouge2"] + row["rougeLsum"] for row in scores]


@contextlib.contextmanager
def second(
    method: str, groups: Sequence[Sequence[Example]], config: Config, options: Options
) -> Iterator[None]:
    """Train on from the adapter of the first training, by the objective of a method."""
    wanted = options.examples // ROWS_OF_ARTICLE.get(method, 2)
    draw = np.random.default_rng(options.seed)
    rounds = -(-wanted // len(groups))
    order = np.concatenate([draw.permutation(len(groups)) for _ in range(rounds)])[:wanted]
    rows = [row for i in order for row in groups[i]]
    first = _start_nll(config, options.adapter, rows) if method not in ROWS_OF_ARTICLE else {}
    objective = OBJECTIVES[method]

    def compute_loss(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        labels = inputs["labels"]
        nll = self.row_nll(model, inputs["input_ids"], labels)
        tokens = (labels != IGNORED).sum(1)
        targets = [tuple(row[row != IGNORED].tolist()) for row in labels]
        nats = [first[row] if first else 0.0 for row in targets]
        begun = torch.tensor(nats, device=nll.device)
        shape = -1, ROWS_OF_ARTICLE.get(method, 2)
        loss = objective(*(part.view(shape) for part in (nll, tokens, begun))).mean()
        self.step_losses.append(loss.detach())
        return loss

    usual = adapters.fresh_adapter

    @contextlib.contextmanager
    def trained(base: Any, lora: Any, seed: int) -> Iterator[Any]:
        with usual(base, lora, seed) as model:
            saved = load_file(options.adapter / "adapter_model.safetensors")
            named = dict(model.named_parameters())
            for name, weight in saved.items():
                named[name.replace(".weight", ".default.weight")].data.copy_(weight)
            yield model

    with (
        mock.patch.object(AdapterTrainer, "compute_loss", compute_loss),
        mock.patch.object(TrainingJob, "ordered_rows", rows),
        mock.patch.object(adapters, "fresh_adapter", trained),
    ):
        yield


def _start_nll(
    config: Config, adapter: Path, rows: Sequence[Example]
) -> dict[tuple[int, ...], float]:
    """Return the nats of each row's summary before the training, by its token ids."""
    pad = load_tokenizer(config.model).pad_token_id
    with with_adapter(load_base(config.model), adapter) as model:
        losses = summary_losses(model, rows, pad, choose_device(config.model))
    summaries = [tuple(row.ids[row.prompt_tokens :]) for row in rows]
    return {ids: loss.nll for ids, loss in zip(summaries, losses, strict=True)}


def _likelihood(nll: torch.Tensor, tokens: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return nll.sum(1) / tokens.sum(1)


def _preference(nll: torch.Tensor, tokens: torch.Tensor, begun: torch.Tensor) -> torch.Tensor:
    return preference_losses(nll.flatten(), begun.flatten(), tokens.flatten(), BETA, 0.0)


def _anchored(nll: torch.Tensor, tokens: torch.Tensor, begun: torch.Tensor) -> torch.Tensor:
    return preference_losses(nll.flatten(), begun.flatten(), tokens.flatten(), BETA, 1.0)


def _normalized(nll: torch.Tensor, tokens: torch.Tensor, begun: torch.Tensor) -> torch.Tensor:
    a_token = [(part / tokens).flatten() for part in (nll, begun)]
    return preference_losses(*a_token, tokens.flatten(), PER_TOKEN_BETA, 0.0)


def _ranking(nll: torch.Tensor, tokens: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    each = nll / tokens
    loss = each[:, 0]
    for better in (1, 2):
        for worse in range(better + 1, 4):
            gap = each[:, better] - each[:, worse] + MARGIN * (worse - better)
            loss = loss + gap.clamp(min=0)
    return loss


OBJECTIVES: dict[str, Objective] = {
    "references": _likelihood,
    "rejection": _likelihood,
    "preference": _preference,
    "anchored": _anchored,
    "normalized": _normalized,
    "ranking": _ranking,
}


def print_table(out: Path, held_out: pd.DataFrame) -> None:
    """Print a line of Markdown for each training, against the first."""
    names = [f"{m}{end}" for end in ("", ", consensus") for m in RATES]
    paths = [out / f"{name}.json" for name in ("before", *names)]
    records = {p.stem: json.loads(p.read_text("utf-8")) for p in paths if p.exists()}
    first = np.array(records["before"]["scores"])[:, 2]
    print(f"\nn = {len(held_out)} held-out articles\n")
    columns = "training|ROUGE-1/2/Lsum|R-Lsum against before|words|ended|new pairs|unsupported"
    print(f"| {columns.replace('|', ' | ')} |\n|" + "---|" * (columns.count("|") + 1))
    for name, record in records.items():
        scores = np.array(record["scores"])
        d = paired_difference(scores[:, 2], first, resamples=10_000, seed=1)
        marks = indicators_of(held_out, record["texts"])
        means = " / ".join(f"{mean:.2f}" for mean in scores.mean(0))
        against = "" if name == "before" else f"{d.mean:+.2f} ({d.low:+.2f} to {d.high:+.2f})"
        print(
            f"| {name} | {means} | {against} | {record['words']:.1f} | {record['ended']:.0%} | "
            f"{marks['novel_2grams'].mean():.0%} | {(marks['unsupported'] > 0).mean():.0%} |"
        )


if __name__ == "__main__":
    main()
