"""The rooms: who may import what, which library has which home, what loads no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools import rooms

SOURCE = rooms.SOURCE
FILES = sorted(SOURCE.rglob("*.py"))
# Each library is imported in these places only.
HOME = {
    "datasets": {"data.sources", "training.sft_trainer"},
    "peft": {"modeling.adapters"},
    "bitsandbytes": {"modeling.four_bits"},
    "trl": {"training.sft_trainer"},
    "rouge_score": {"evaluation.rouge", "data.rouge_tokens"},
    "regex": {"data.rouge_tokens"},
    "matplotlib": {"report.figures"},
    "seaborn": {"report.figures"},
    "trafilatura": {"data.web_page"},
    "readability": {"data.web_page"},
    "fastapi": {"serving"},
    "starlette": {"serving"},
    "uvicorn": {"serving"},
    "prometheus_client": {"serving"},
    "huggingface_hub": {"core.hub", "report.model_card"},
    "ray": {"parallel.ray_cluster", "parallel.ray_session", "search.ray_tune",
            "search.trial_worker", "training.distributed.ray_train", "search.packed_client"},
    "optuna": {"search.sampler"},
    "fsspec": {"storage"},
    "xllamacpp": {"generation.llama_cpp"},
    "gguf": {f"modeling.gguf_{name}" for name in ("file", "kquants", "tokenizer", "write")},
}  # fmt: skip
# Rooms and modules that load neither torch, transformers nor Ray; HEAVY are exceptions in them.
WITHOUT_TORCH = (
    "core config storage parallel data evaluation judging report cli pocket watching "
    "serving.limits serving.schema serving.server serving.judge serving.watch "
    "serving.request_guard pipeline.judgements pipeline.run_log pipeline.runner training.curves "
    "planning.memory planning.duration planning.advice planning.outcome "
    "pipeline.artifacts pipeline.stages.score pipeline.stages.compare pipeline.stages.report"
).split()
HEAVY = "parallel.ray_cluster parallel.ray_session cli.export cli.export_gguf cli.summarize".split()


def module(path: Path) -> str:
    """Return the dotted name of a file within the package."""
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def test_each_package_is_a_room_that_says_what_it_is_for() -> None:
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert packages == set(rooms.ROOMS)
    assert not [room for room in rooms.ROOMS if not rooms.purpose(room)]


@pytest.mark.parametrize("room", rooms.ROOMS)
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    below = rooms.ROOMS[rooms.ROOMS.index(room) + 1 :]
    assert [pair for pair in rooms.edges() if pair[0] == room and pair[1] not in below] == []


def test_a_stage_never_imports_a_stage() -> None:
    for path in (SOURCE / "pipeline" / "stages").glob("*.py"):
        assert not [n for n in rooms.imports_of(path) if n.startswith("nutgraf.pipeline.stages")]


def test_each_library_has_its_home() -> None:
    for path in FILES:
        for name in rooms.imports_of(path):
            homes = HOME.get(name.split(".")[0])
            here = module(path)
            assert homes is None or any(
                here == home or here.startswith(f"{home}.") for home in homes
            ), f"{name} is imported in {here}, not in {homes}"


def test_only_pipeline_storage_and_watching_touch_the_run_folder() -> None:
    for path in FILES:
        homes = ("nutgraf.storage.run_folder", "nutgraf.storage.artefact")
        uses = any(name.startswith(homes) for name in rooms.imports_of(path))
        assert not uses or rooms.room_of(path) in ("pipeline", "storage", "watching"), path


def test_light_rooms_load_no_torch() -> None:
    names = [
        module(path)
        for path in FILES
        for light in WITHOUT_TORCH
        if f"{module(path)}.".startswith(f"{light}.") and module(path) not in HEAVY
    ]
    code = "import sys\n" + "".join(f"import nutgraf.{name}\n" for name in names)
    code += "print(sorted({'torch', 'transformers', 'ray'} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_files_are_short() -> None:
    assert not {str(p): n for p in FILES if (n := len(p.read_text().splitlines())) > 320}


def test_the_picture_of_the_rooms_is_that_of_the_imports() -> None:
    assert rooms.PICTURE.read_text(encoding="utf-8") == rooms.draw(), "run python tools/rooms.py"


def test_no_two_files_of_tests_have_one_name() -> None:
    # The folders are no packages, so pytest imports a file by its name alone.
    names = [path.name for path in (SOURCE.parents[1] / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted(names)
