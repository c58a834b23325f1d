"""The rooms: who may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nutgraf

SOURCE = Path(nutgraf.__file__).parent
# From the top down: a room imports only from rooms that stand behind it in this list.
FLOORS = [
    ("cli",),
    ("api",),
    ("remote",),
    ("study", "commands"),
    ("stages", "apps"),
    ("gain",),
    ("tuner", "report", "measurement"),
    ("worker", "ledger", "group", "asking"),
    ("engine",),
    ("members",),
    ("member",),
    ("trainer", "proposals"),
    ("loop", "summarizer", "writers"),
    ("training_job",),
    ("history", "recipe"),
    ("inference", "trials", "attention", "shards", "shape", "identity", "together", "encoded"),
    ("adapter", "optimizer"),
    tuple(
        "model prompts results datacard breakdown examples rivals extracts unusual evidence".split()
    ),
    ("articles", "card", "differences", "figures", "errors", "plan", "outcome"),
    ("stored",),
    ("footprint", "reading", "inputs"),
    tuple("budget halving metrics published tables fetch snippets pocket facts artefacts".split()),
    ("remote_sync", "workplace"),
    ("remote_copy",),
    ("config", "runfolder", "checkpoints", "cluster", "base"),
    ("settings",),
    ("remote_lease",),
    ("section", "lock", "cores", "claims", "strictyaml", "text", "peers", "trackers"),
    ("remote_files",),
    ("files", "environment", "stopping", "console", "markup", "systems", "hub", "web_page"),
    ("problems", "loading"),
]
HOME = {
    "datasets": {"articles"},
    "peft": {"model"},
    "bitsandbytes": {"model"},
    "trl": {"loop"},
    "rouge_score": {"metrics"},
    "matplotlib": {"figures"},
    "seaborn": {"figures"},
    "trafilatura": {"web_page"},
    "fastapi": {"apps"},
    "starlette": {"apps"},
    "uvicorn": {"apps"},
    "prometheus_client": {"apps"},
    "tensorboardX": {"trackers"},
    "wandb": {"trackers"},
    "mlflow": {"trackers"},
    "trackio": {"trackers"},
    "huggingface_hub": {"hub", "card"},
    "ray": {"cluster", "tuner", "worker", "group", "asking"},
    "optuna": {"proposals"},
    "fsspec": {"remote_files"},
}
PACKAGES = ("pocket", "stages", "apps", "settings")
WITHOUT_TORCH = (
    "metrics differences errors figures published config settings runfolder study articles report "
    "card cli footprint plan outcome unusual environment console apps.check evidence inputs "
    "trackers commands engine apps.serve artefacts base stages.score stages.compare stages.report"
).split()


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, by full dotted name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    here = room(path)
    if here == "__init__":
        return
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    assert here in floor, f"{here} has no floor yet: give it one in FLOORS"
    for module in imported(path):
        if module.startswith("nutgraf."):
            there = module.split(".")[1]
            if there == "__version__" or (
                there == here and here in ("pocket", "stages", "apps", "settings")
            ):
                own = here == "apps" and [path.parent.name] == module.split(".")[2:3]
                sibling = there in ("stages", "apps") and not own
                assert not sibling, f"{path} imports its sibling {module}"
                continue
            assert floor[there] > floor[here], f"{here} imports {there}, which is not below it"
        for library, homes in HOME.items():
            if module.split(".")[0] == library:
                assert here in homes, f"{library} is imported in {here}, not in {homes}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_only_artefacts_stages_and_study_touch_the_run_folder(path: Path) -> None:
    uses = any(module.startswith("nutgraf.runfolder") for module in imported(path))
    assert not uses or room(path) in ("artefacts", "stages", "study", "remote_copy")


def test_light_rooms_load_no_torch() -> None:
    code = "import sys\n" + "".join(f"import nutgraf.{name}\n" for name in WITHOUT_TORCH)
    code += "print(sorted({'torch', 'transformers', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_files_are_short() -> None:
    long = {str(p): n for p in FILES if (n := len(p.read_text().splitlines())) > 320}
    assert not long
