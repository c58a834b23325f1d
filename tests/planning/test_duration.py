"""The planner's arithmetic, held against what it stands for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nutgraf.config import Config
from nutgraf.config.load import build_config, with_overrides
from nutgraf.config.systems import measured_systems
from nutgraf.modeling import attention
from nutgraf.modeling.adapters import fresh_adapter
from nutgraf.modeling.dims import LOGIT_POSITIONS, ModelDims
from nutgraf.modeling.fused.model import FusedModel
from nutgraf.modeling.load import Device, choose_device, load_base
from nutgraf.modeling.shape import read_dims
from nutgraf.pipeline.artifacts import BY_STAGE
from nutgraf.planning import advice, benchmark, duration, memory, outcome, simulation, speeds
from nutgraf.planning.memory import Machine, RowLengths
from nutgraf.planning.speeds import Speed, Speeds
from nutgraf.storage.run_folder import RunFolder

ROWS = RowLengths(366, 428, 312, 367, 53, 64)
CPU = Machine("cpu", True, 2, 20_000_000_000)
SPEED = Speed(6e10, 1.2e11, 0.1)
SPEEDS = Speeds(SPEED, SPEED, 2e11, 2e11, 0.05, "nothing")
POCKET = read_dims(Config().model, Config().lora)
ARTICLES = {"train": 900, "validation": 64, "test": 100}


def planned(config: Config = Config()) -> duration.Plan:  # noqa: B008
    return duration.plan_study(config, POCKET, ROWS, CPU, SPEEDS, ARTICLES, 3.0, 0.002)


def seconds(config: Config) -> dict[str, float]:
    return {stage.name: stage.seconds for stage in planned(config).stages}


def test_a_search_that_ends_before_its_measurement_would_is_not_planned() -> None:
    few = {"search": {"trials": 2}, "train": {"micro_batch_size": 4, "max_examples": 56}}
    assert not benchmark.worth_planning(build_config(few))
    assert benchmark.worth_planning(build_config({**few, "search": {"trials": 3}}))


def test_work_is_what_the_model_does():
    tokens, outputs = 200, 17
    config = Config()
    base = load_base(config.model)
    usual = base.config._attn_implementation
    base.set_attn_implementation("eager")  # whose products the counter sees
    with (
        fresh_adapter(base, config.lora, 0) as model,
        choose_device(config.model).autocast(),
        FlopCounterMode(display=False) as counter,
    ):
        model(torch.zeros(3, tokens, dtype=torch.long), logits_to_keep=outputs)
    base.set_attn_implementation(usual)
    assert speeds.forward_operations(POCKET, 3, tokens, outputs) == pytest.approx(
        counter.get_total_flops(), rel=0.01
    )


def test_the_shape_is_that_of_the_weights():
    base = load_base(Config().model)
    assert POCKET.linear + POCKET.other == sum(weight.numel() for weight in base.parameters())
    with fresh_adapter(base, Config().lora, 0) as model:
        trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert POCKET.adapter == trained
    assert (POCKET.layers, POCKET.width, POCKET.key_width, POCKET.vocabulary) == (4, 256, 128, 2048)


@pytest.mark.parametrize("name", ["sdpa", attention.NAME, "fused"])
def test_what_a_step_keeps_is_what_autograd_keeps(name):
    # Held in bf16, whatever the processor: autocast would keep a copy of each fp32 weight.
    config, rows, tokens = with_overrides(Config(), {"model.dtype": "bf16"}), 4, 128
    base = load_base(config.model)
    storage_bytes: dict[int, int] = {}
    held = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in storage_bytes | weights:
            storage_bytes[storage.data_ptr()] = storage.nbytes()
        held.append(value)  # or another value would get its place
        return value

    usual = base.config._attn_implementation
    with fresh_adapter(base, config.lora, 0) as model:
        fused = FusedModel.of(model, Device("cpu", torch.bfloat16), rows, tokens)
        assert fused
        model.set_attn_implementation(usual if name == "fused" else name)
        weights = {w.untyped_storage().data_ptr(): 0 for w in model.parameters()}
        with (
            torch.autocast("cpu", torch.bfloat16),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value),
        ):
            ids = torch.zeros(rows, tokens, dtype=torch.long)
            if name == "fused":
                fused.nll(model.train(), ids, ids)
            else:
                model.train()(ids, logits_to_keep=1)
        model.set_attn_implementation(usual)
    config = with_overrides(config, {"train.micro_batch_size": rows})
    lengths = RowLengths(tokens, tokens, tokens, tokens, 1, 1)
    machine = Machine("cuda", True, 2, 0) if name == "sdpa" else CPU
    dims = dataclasses.replace(POCKET, fused=name == "fused")
    predicted = memory.activation_bytes(config, dims, lengths, machine)
    assert predicted == pytest.approx(sum(storage_bytes.values()), rel=0.1)


def test_a_search_without_stopping_is_whole_trainings():
    config = with_overrides(Config(), {"search.trials": 6, "search.grace_evaluations": 4})
    assert simulation.simulate_searches(config) == (3.0, 3.0, 3.0)


def test_a_search_that_stops_trials_is_shorter_and_ends_with_a_winner():
    median, p10, p90 = simulation.simulate_searches(with_overrides(Config(), {"search.trials": 8}))
    assert 1 <= p10 < median < p90 <= 4


def test_a_search_is_played_by_the_rule_of_the_real_one(monkeypatch):
    """Two at a time, evaluations 1, 2 and 4 of 4 as rungs, one in two passes."""
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    config = with_overrides(Config(), {"search.trials": 4})
    # The second of the first two is stopped, and each after it, as none is better than the first.
    assert simulation._simulate_search([1, 2, 4, 3], config, 4) == 4
    # The third is better, begins after the second is stopped, and is completed.
    assert simulation._simulate_search([2, 4, 1, 3], config, 4) == 5


def test_twice_the_budget_is_about_twice_the_time():
    once, twice = (
        seconds(Config()),
        seconds(with_overrides(Config(), {"train.max_examples": 1792})),
    )
    assert twice["train"] == pytest.approx(2 * once["train"], rel=0.05)
    assert once["search"] < twice["search"] < 2 * once["search"]
    samples = seconds(with_overrides(Config(), {"train.samples": 3}))
    # One training, of four evaluations: so many steps of three summaries, and prompts.
    written = 4 * Config().generate.max_new_tokens * SPEEDS.token * speeds.FEW_SHARE
    assert written < samples["train"] - once["train"] < 1.5 * written
    assert samples["search"] > once["search"] + written
    assert twice["generate"] == once["generate"]


def test_further_seeds_and_rivals_are_counted():
    more = build_config({"train": {"seeds": [1, 2]}, "rivals": {"theirs": {"file": "a.jsonl"}}})
    one, two = (
        {stage.name: stage for stage in planned(config).stages} for config in (Config(), more)
    )
    assert two["train"].seconds > 1.9 * one["train"].seconds
    assert two["generate"].seconds > 1.5 * one["generate"].seconds
    assert (one["train"].artefacts, two["train"].artefacts) == (2, 4)
    assert (one["score"].artefacts, two["score"].artefacts) == (6, 9)


@pytest.mark.parametrize("seeds", [[1], [1, 2]])
def test_processes_of_trainings_are_planned_as_the_stage_starts_them(
    monkeypatch: pytest.MonkeyPatch, seeds: list[int]
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)

    def starting(**search: object) -> float:
        plan = planned(build_config({"train": {"seeds": seeds}, "search": search}))
        return next(stage.starting for stage in plan.stages if stage.name == "train")

    assert starting(concurrent=2) == duration.IMPORT_SECONDS
    assert starting(concurrent=1) == 0
    assert starting(concurrent=2, cpus_per_trial=2) == 0  # one at a time has all cores
    assert starting(concurrent=2, together="on") == 0  # packed in the process of the stage


def test_rounds_are_no_trainings_that_run_beside_others() -> None:
    train = {"seeds": [1, 2, 3], "rounds": 2}
    assert memory.first_trainings(build_config({"train": train})) == 6


def test_reading_sentences_is_counted() -> None:
    def scoring(articles: int) -> duration.Stage:
        config = with_overrides(Config(), {"facts.articles": articles})
        return next(stage for stage in planned(config).stages if stage.name == "score")

    none, some, more, all_ = map(scoring, (0, 20, 40, 4000))
    # Of each article the reference and three models' summaries, each of 53 tokens in sentences of
    # 20, behind 100 more.
    weights = POCKET.linear + POCKET.adapter
    layers = 2 * weights * 120 + 4 * 120**2 * POCKET.query_width * POCKET.layers
    operations = layers + 2 * 20 * POCKET.vocabulary * POCKET.width
    each = 4 * 53 / 20 * (operations / SPEEDS.looking + speeds.SENTENCE_SECONDS)
    assert more.seconds - some.seconds == pytest.approx(20 * each)
    assert some.seconds - none.seconds > 20 * each  # and the base is loaded
    assert all_.seconds - more.seconds == pytest.approx(60 * each)  # the test has 100 articles
    assert (none.artefacts, some.artefacts) == (6, 7)
    assert none.memory is None
    assert some.memory == memory.facts_bytes(Config(), POCKET, CPU)


def test_checkpointing_and_four_bits_take_less_memory():
    large = with_overrides(Config(), {"train.micro_batch_size": 256})
    held = memory.training_bytes(large, POCKET, ROWS, CPU)
    for change in ({"train.activation_checkpointing": True}, {"train.micro_batch_size": 128}):
        assert memory.training_bytes(with_overrides(large, change), POCKET, ROWS, CPU) < held
    nf4 = with_overrides(Config(), {"model.quantization": "nf4"})
    assert memory.base_bytes(nf4, POCKET, CPU) < memory.base_bytes(Config(), POCKET, CPU)


SMOLLM2 = ModelDims(
    layers=30, width=576, inner=1536, heads=9, query_width=576, key_width=192, vocabulary=49_152,
    positions=8192, linear=106_168_320, other=28_346_688, adapter=4_884_480, fused=True,
)  # fmt: skip


def test_the_memory_of_writing_is_as_measured() -> None:
    """2.44 GB: the peak of a process that returns freed memory after each batch."""
    config = with_overrides(Config(), {"generate.batch_size": 40, "generate.max_new_tokens": 120})
    lengths = RowLengths(540, 560, 440, 560, 100, 120)
    size = memory.generation_bytes(config, SMOLLM2, lengths, CPU)
    assert size == pytest.approx(2_440e6, rel=0.15)


@pytest.mark.parametrize(("device", "beams"), [("cpu", 1), ("cpu", 2), ("cuda", 1)])
def test_writing_needs_more_memory_for_a_larger_vocabulary(device: str, beams: int) -> None:
    machine, several = Machine(device, True, 2, 0), 1 if beams > 1 else 8
    config = with_overrides(Config(), {"generate.num_beams": beams, "generate.candidates": several})

    def held(words: int) -> float:
        dims = dataclasses.replace(POCKET, vocabulary=words)  # with as many weights
        return memory.generation_bytes(config, dims, ROWS, machine)

    # Scores of each row in fp32 at least; a CPU without beams also holds logits of references.
    least = config.generate.batch_size * beams * several * 4
    if (device, beams) == ("cpu", 1):
        least += LOGIT_POSITIONS * 2
    assert held(300_000) - held(200_000) > 100_000 * least


def test_what_a_processor_compiles_is_planned_for_writing_too() -> None:
    whole, half = (dataclasses.replace(CPU, half=half) for half in (False, True))
    smallest = dataclasses.replace(POCKET, linear=0, other=0, vocabulary=0, key_width=0)
    lengths = RowLengths(1, 1, 1, 1, 1, 1)
    more, less = (memory.generation_bytes(Config(), smallest, lengths, m) for m in (half, whole))
    assert more - less == pytest.approx(memory.COMPILED_BYTES, rel=0.01)


def test_what_fits_needs_no_change_and_what_never_fits_has_none():
    assert memory.suggest_changes(Config(), POCKET, ROWS, CPU) == {}
    tight = Machine("cpu", True, 2, 500_000_000)
    assert memory.suggest_changes(Config(), POCKET, ROWS, tight) is None


def test_as_few_settings_change_as_can_be_and_steps_stay_the_same():
    config = with_overrides(Config(), {"train.micro_batch_size": 256})
    there = Machine("cpu", True, 2, 6_500_000_000)
    changes = memory.suggest_changes(config, POCKET, ROWS, there)
    assert changes is not None
    assert set(changes) == {"train.micro_batch_size", "train.gradient_accumulation_steps"}
    (_, micro), (_, accumulation) = changes.values()
    assert micro * accumulation == 512
    fitting = with_overrides(config, {"train.micro_batch_size": micro})
    assert max(memory.bytes_by_stage(fitting, POCKET, ROWS, there).values()) <= there.free
    larger = with_overrides(config, {"train.micro_batch_size": 2 * micro})
    assert max(memory.bytes_by_stage(larger, POCKET, ROWS, there).values()) > there.free


def test_the_largest_micro_batch_that_is_searched_counts() -> None:
    def held(micro: int, **domain: object) -> float:
        space = {"train.micro_batch_size": domain} if domain else {"lora.r": {"choices": [8]}}
        settings = {"train": {"micro_batch_size": micro}, "search": {"space": space}}
        return memory.training_bytes(build_config(settings), POCKET, ROWS, CPU)

    assert held(4, low=4, high=64) == held(4, choices=[4, 64, 8]) == held(64) > held(4)


def test_an_odd_micro_batch_is_divided_so_that_the_effective_batch_stays_the_same() -> None:
    steps = "train.gradient_accumulation_steps"
    config = with_overrides(Config(), {"train.micro_batch_size": 5, steps: 1})

    def peak(micro: int) -> int:
        smaller = with_overrides(config, {"train.micro_batch_size": micro})
        return int(max(memory.bytes_by_stage(smaller, POCKET, ROWS, CPU).values()))

    there = dataclasses.replace(CPU, free=peak(2) + 1)  # two would fit, and five are not twos
    changes = memory.suggest_changes(config, POCKET, ROWS, there)
    assert changes == {"train.micro_batch_size": (5, 1), steps: (1, 5)}


def manifests(**spans: tuple[float, float]) -> dict[str, dict[str, float]]:
    return {
        name.replace("__", "/"): {
            "created": start,
            "seconds": end - start,
            "carried_on": name == "scores__lead3",
        }
        for name, (start, end) in spans.items()
    }


def test_the_outcome_counts_what_overlaps_once_and_leaves_out_what_was_there_before():
    record = planned().record(time=100.0)
    stage_manifests = manifests(
        search=(95, 195),
        models__baseline=(200, 280),
        models__best=(205, 300),
        comparison=(310, 312),
        final_best_model=(50, 60),  # made before the plan
        **{f"summaries__{name}": (301, 305) for name in ("lead3", "best")},  # not all six
        **{f"scores__{name}": (306, 308) for name in measured_systems(Config())},  # one carried on
    )
    rows = {
        row["what"]: row
        for row in outcome.planned_vs_actual(record, stage_manifests, 2_500_000_000)
    }
    assert set(rows) == {"search", "train", "memory of a training"}
    assert rows["search"]["measured"] == 100
    assert rows["train"]["measured"] == 100
    assert rows["memory of a training"]["measured"] == 2.5
    assert rows["search"]["planned"] == planned().stages[1].seconds


def test_reading_sentences_is_among_what_scoring_took() -> None:
    config = with_overrides(Config(), {"facts.articles": 20})
    record = planned(config).record(time=100.0)
    scores = {f"scores__{name}": (331.0, 333.0) for name in measured_systems(config)}
    stage_manifests = manifests(facts=(300, 330), **scores)
    stage_manifests["scores/lead3"]["carried_on"] = False
    (row,) = outcome.planned_vs_actual(record, stage_manifests, 0)
    assert (row["what"], row["measured"]) == ("score", 32)
    assert row["planned"] == record["stages"][4]["seconds"]
    del stage_manifests["facts"]  # not all that it makes
    assert not [*outcome.planned_vs_actual(record, stage_manifests, 0)]


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"train": {"seeds": [1, 2], "rounds": 1}, "facts": {"articles": 20}},
        {"generate": {"candidates": 4, "choose": "fitted"}},
    ],
)
def test_the_artefacts_of_a_stage_are_those_that_the_pipeline_makes(
    tmp_path: Path, sections: dict[str, dict[str, object]]
) -> None:
    config, folder = build_config(sections), RunFolder(tmp_path)
    by_stage = {stage: [a.name for a in of(config, folder)] for stage, of in BY_STAGE.items()}
    counts = {stage.name: stage.artefacts for stage in planned(config).stages}
    assert counts == {stage: len(names) for stage, names in by_stage.items()}
    every = [name for names in by_stage.values() for name in names]
    for stage, beginnings in outcome.ARTEFACTS.items():
        assert [name for name in every if name.startswith(beginnings)] == by_stage[stage]


def test_a_fitted_choice_is_among_what_writing_took() -> None:
    config = build_config({"generate": {"candidates": 4, "choose": "fitted"}})
    record = planned(config).record(time=100.0)
    summaries = {f"summaries__{name}": (331.0, 333.0) for name in measured_systems(config)}
    stage_manifests = manifests(choice=(300, 330), **summaries)
    (row,) = outcome.planned_vs_actual(record, stage_manifests, 0)
    assert (row["what"], row["measured"]) == ("generate", 32)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"data.test_examples": 20}, "data.test_examples 20: the 95% interval"),
        ({"data.train_examples": 400}, "data.train_examples 400: each article is seen 2.2 times"),
        ({"train.eval_every": 896}, "train.eval_every 896: 1 evaluation of each trial, so none"),
        ({"search.grace_evaluations": 4}, "train.eval_every 224: 4 evaluations of each trial, so"),
        ({"search.concurrent": 1000}, "search.concurrent 1000: with 1 cores a trial"),
        ({"generate.num_beams": 3}, "generate.num_beams 3: writing takes about 3 times"),
        ({"lora.r": 256}, "lora.r 256: "),
        ({"train.activation_checkpointing": True}, "train.activation_checkpointing True: about"),
        ({"model.quantization": "nf4"}, "model.quantization nf4: a training holds"),
        ({"generate.max_new_tokens": 32}, "generate.max_new_tokens 32: references have up to 64"),
    ],
)
def test_an_unusual_value_is_told_with_its_cost_and_a_usual_one_is_not(changes, line):
    config = with_overrides(Config(), changes)
    (setting, _, _) = line.partition(" ")
    notes = [*advice.settings_advice(config), *advice.cost_advice(config, planned(config))]
    assert [here for here in notes if here.startswith(line)]
    usual = [*advice.settings_advice(Config()), *advice.cost_advice(Config(), planned())]
    assert not [here for here in usual if here.startswith(setting)]


def test_one_seed_and_long_rows_are_told():
    (seed,) = advice.cost_advice(Config(), planned())
    assert seed.startswith("train.seeds [42]: the spread between trainings stays unknown")
    long = duration.plan_study(
        Config(),
        POCKET,
        RowLengths(1500, 2048, 1400, 1900, 100, 148),
        CPU,
        SPEEDS,
        ARTICLES,
        3,
        0.1,
    )
    assert "the longest row has 2,048 tokens" in " ".join(advice.cost_advice(Config(), long))


def test_a_round_is_planned_by_its_articles_candidates_and_pairs() -> None:
    none, one, two = (seconds(build_config({"train": {"rounds": n}})) for n in range(3))
    first, second = (b["train"] - a["train"] for a, b in ((none, one), (one, two)))
    assert first == pytest.approx(second)
    assert first > 5
    assert one["generate"] > none["generate"]
    assert one["search"] == none["search"]
    half = {"train": {"rounds": 1}, "preference": {"articles": 160}}
    assert seconds(build_config(half))["train"] - none["train"] == pytest.approx(first / 2, rel=0.1)
    few = {"train": {"rounds": 1}, "preference": {"candidates": 2}}
    assert seconds(build_config(few))["train"] < one["train"]
    assert next(s for s in planned(build_config(half)).stages if s.name == "train").artefacts == 3


def test_a_fitted_choice_is_planned_with_the_candidates_that_no_round_has_written() -> None:
    several = {"candidates": 4}
    plain, fitted = (
        {
            rounds: seconds(build_config({"train": {"rounds": rounds}, "generate": generate}))
            for rounds in (0, 1)
        }
        for generate in (several, several | {"choose": "fitted"})
    )
    more = [fitted[rounds]["generate"] - plain[rounds]["generate"] for rounds in (0, 1)]
    assert fitted[1]["train"] == plain[1]["train"]
    assert 5 < more[1] < 15  # seconds, of 320 x 8 candidates that are measured
    assert more[0] > more[1] + 5
    (stage,) = [
        s
        for s in planned(build_config({"generate": several | {"choose": "fitted"}})).stages
        if s.name == "generate"
    ]
    assert stage.artefacts == 9


def test_a_round_may_need_more_memory_than_the_trainings_before_it() -> None:
    small = {"micro_batch_size": 1, "gradient_accumulation_steps": 8}
    none, one = (
        memory.bytes_by_stage(
            build_config({"train": {**small, "rounds": n}, "search": {"concurrent": 1}}),
            POCKET, ROWS, CPU,
        )
        for n in range(2)
    )  # fmt: skip
    assert one["train"] > none["train"]
    assert one["search"] == none["search"]
