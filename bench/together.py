"""How long K trainings take together over one base, against the same K one after another.

Both in one warm process that has loaded base and rows, in turns, so that what the machine does
meanwhile meets both. The trainings have the rates and accumulation of a search; costs are per
article that a loss was taken on, evaluations and checkpoints included: seconds, and seconds of the
processor, which other programs move less (with --threads 1: threads that wait count too). With
--memory the peak of the process (of the GPU where there is one), each way in a process of its own.

    python bench/together.py [--runs 1 2 4 8 16] [--rounds 3]          pocket model, newswire
    python bench/together.py --base DIR --articles FILE.parquet [--nf4] --examples 8 --micro 1
    python bench/together.py --profile 8                                    where a pass's time goes

DIR is a checkpoint of any shape; bench/shape.py writes one of TinyLlama's.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rows import read_pairs

ACCUMULATED, RATES = (1, 2, 4), (3e-3, 1e-2, 5e-3, 2e-2)


class Trainings:
    """Base, rows, and K trainings alone or together."""

    def __init__(self, options: argparse.Namespace) -> None:
        import torch

        from nutgraf.config import ModelConfig, PromptConfig
        from nutgraf.data.prompts import Renderer
        from nutgraf.modeling.load import choose_device, load_base, load_tokenizer

        if options.threads:
            torch.set_num_threads(options.threads)
        self.options = options
        self.model = model = ModelConfig(
            base=options.base,
            quantization="nf4" if options.nf4 else "none",
            dtype=options.dtype,
        )
        self.base, self.tokenizer = load_base(model), load_tokenizer(model)
        self.device = choose_device(model)
        room = PromptConfig(max_tokens=options.tokens, max_article_tokens=options.tokens - 160)
        renderer = Renderer(self.tokenizer, room)
        pairs = options.pairs or read_pairs(options.articles, 400)
        rows = [renderer.example(article, summary) for article, summary in pairs]
        self.validation, self.train = rows[: options.evaluated], rows[options.evaluated :]

    def job(self, number: int, out: Path) -> Any:
        from nutgraf.config import Config, TrainConfig
        from nutgraf.training.job import TrainingJob

        options = self.options
        settings = TrainConfig(
            max_examples=options.examples,
            micro_batch_size=options.micro,
            gradient_accumulation_steps=ACCUMULATED[number % 3],
            learning_rate=RATES[number % 4],
            eval_every=max(1, options.examples // options.evaluations),
            eval_examples=options.evaluated,
        )
        config = Config(model=self.model, train=settings)
        return TrainingJob(config, self.train, self.validation, out / str(number))

    def in_turn(self, runs: int, out: Path) -> None:
        from nutgraf.training.fit import fit_adapter

        for number in range(runs):
            fit_adapter(self.job(number, out))

    def together(self, runs: int, out: Path) -> None:
        from nutgraf.training.packed.loop import fit_packed

        jobs = [self.job(number, out) for number in range(runs)]
        for result in fit_packed(jobs, self.options.max_packed):
            if isinstance(result, Exception):
                raise result

    def timed(self, way: Callable[[int, Path], None], runs: int) -> tuple[float, float]:
        """Seconds, and seconds of the processor, for each article that a loss was taken on."""
        articles = runs * self.options.examples
        with tempfile.TemporaryDirectory() as folder:
            started, worked = time.perf_counter(), time.process_time()
            way(runs, Path(folder))
            took, work = time.perf_counter() - started, time.process_time() - worked
            return took / articles, work / articles


def peak(way: str, runs: int, options: argparse.Namespace) -> None:
    """Print the most memory of one way, in this process."""
    import torch

    trainings = Trainings(options)
    trainings.timed(getattr(trainings, way), runs)
    if trainings.device.name == "cuda":
        print(torch.cuda.max_memory_allocated())
        return
    # Not getrusage, which hands on what the process had that started this one.
    status = Path("/proc/self/status").read_text()
    print(1024 * int(status.split("VmHWM:")[1].split()[0]))


def profile(runs: int, options: argparse.Namespace) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    trainings = Trainings(options)
    trainings.timed(trainings.together, runs)
    for way in (trainings.in_turn, trainings.together):
        with profiled(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            trainings.timed(way, runs)
        print(way.__name__)
        print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="pocket", help="checkpoint folder")
    parser.add_argument("--articles", help="Parquet with article and highlights")
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=3, help="of each; the median counts")
    parser.add_argument("--examples", type=int, default=96, help="of one training")
    parser.add_argument("--evaluated", type=int, default=10, help="validation rows")
    parser.add_argument("--evaluations", type=int, default=2, help="of one training")
    parser.add_argument("--micro", type=int, default=4, help="rows of one's micro-batch")
    parser.add_argument("--max-packed", type=int, help="runs in one pass (default: all)")
    parser.add_argument("--tokens", type=int, default=1024, help="prompt.max_tokens")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--nf4", action="store_true", help="4-bit base")
    parser.add_argument("--memory", action="store_true", help="instead of times")
    parser.add_argument("--profile", type=int, metavar="K", help="instead: profile K runs")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    parser.set_defaults(pairs=None)  # read from --articles
    options = parser.parse_args()
    if options.peak:
        peak(options.peak[0], int(options.peak[1]), options)
    elif options.profile:
        profile(options.profile, options)
    elif options.memory:
        memory(options)
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    from statistics import median

    trainings = Trainings(options)
    trainings.timed(trainings.in_turn, 1)  # warm, both
    trainings.timed(trainings.together, 1)
    print("  K  ms alone  together  ratio  ratios of rounds  processor ratio")
    for runs in options.runs:
        pairs = [
            [trainings.timed(way, runs) for way in (trainings.in_turn, trainings.together)]
            for _ in range(options.rounds)
        ]
        alone, together = (1e3 * median(pair[way][0] for pair in pairs) for way in (0, 1))
        ratios, works = ([b[i] / a[i] for a, b in pairs] for i in (0, 1))
        print(
            f"{runs:>3}{alone:>10.1f}{together:>10.1f}{median(ratios):>7.2f}  "
            f"{' '.join(f'{ratio:.2f}' for ratio in ratios):<16}{median(works):>17.2f}",
            flush=True,
        )


def memory(options: argparse.Namespace) -> None:
    print("  K  MB alone  together")
    for runs in options.runs:
        peaks = []
        for way in ("in_turn", "together"):
            command = [sys.executable, *sys.argv, "--peak", way, str(runs)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            peaks.append(int(printed.split()[-1]) / 1e6)
        print(f"{runs:>3}{peaks[0]:>10.0f}{peaks[1]:>10.0f}", flush=True)


if __name__ == "__main__":
    main()
