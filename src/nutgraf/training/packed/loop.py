"""Train several adapters in one process: passes of all their micro-batches through one base.

Runs are added and removed between passes. If one fails, because of a loss that is not a number or
a callback that raises, only that one ends.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from nutgraf.core import signals
from nutgraf.core.errors import Failure, one_line
from nutgraf.core.signals import Stopped
from nutgraf.data.examples import IGNORED
from nutgraf.modeling.attention import training_attention
from nutgraf.modeling.batching import length_batches
from nutgraf.modeling.dims import EVAL_BATCH_SIZE
from nutgraf.modeling.load import Device, choose_device, load_base, load_tokenizer
from nutgraf.modeling.losses import DeviceMemoryError, RowLoss, batch_losses
from nutgraf.training.history import TrainingResult, peak_memory
from nutgraf.training.job import TrainingJob
from nutgraf.training.packed.lora import AdapterStack, BatchSlice
from nutgraf.training.packed.run import PackedRun

logger = logging.getLogger(__name__)


class PackedTrainer:
    """The trainings that share `base`; their jobs have the same validation rows.

    `max_packed` is how many micro-batches of runs go through in one pass; None for all, until
    memory runs out. `pad` is the id of the padding token. `before_pass` is called with the runs of
    each pass. fp16 is refused with Failure: it needs a loss scale for each training.
    """

    def __init__(
        self, base: PreTrainedModel, pad: int, device: Device, max_packed: int | None = None
    ) -> None:
        if device.dtype == torch.float16:
            raise Failure("fp16 needs a loss scale a training: set search.together to off")
        self.base, self.pad, self.device, self.max_packed = base, pad, device, max_packed
        self.runs: list[PackedRun] = []
        self.errors: dict[PackedRun, Exception] = {}
        self.before_pass: Callable[[list[PackedRun]], None] = lambda runs: None
        self._stack = AdapterStack(base)

    def add(self, job: TrainingJob) -> PackedRun:
        """Return a new run, with its `result` if it was finished before. Raises as PackedRun."""
        run = PackedRun(self.base, job, self.device)
        if run.result is None:
            self._set_runs([*self.runs, run])
        return run

    def remove(self, run: PackedRun) -> None:
        """Go on without `run`; it resumes from its checkpoint when its job is added again."""
        self._set_runs([other for other in self.runs if other is not run])

    def close(self) -> None:
        """Leave the base as it was before."""
        self._set_runs([])
        self.base.requires_grad_(False).eval()

    def _set_runs(self, runs: Sequence[PackedRun]) -> None:
        self.runs = list(runs)
        self._stack.set_adapters([run.adapter for run in runs])

    def advance(self) -> None:
        """Do one pass, the steps whose gradients are complete, and the evaluations that are due.

        An evaluation waits for runs that evaluate after the step that they are in, so that they
        evaluate together.
        """
        for runs in self._groups([run for run in self.runs if not run.evaluation_due]):
            self._within_memory(runs, self._add_gradients)
        for run in list(self.runs):
            if run.gradient_complete:
                self._isolated(run, run.take_step)
        if any(not run.evaluation_due and run.evaluation_follows for run in self.runs):
            return
        for runs in self._groups([run for run in self.runs if run.evaluation_due]):
            self._within_memory(runs, self._evaluate)

    def _groups(self, runs: list[PackedRun]) -> list[list[PackedRun]]:
        """Return groups of as many runs as go through in one pass."""
        size = self.max_packed or max(1, len(runs))
        return [runs[start : start + size] for start in range(0, len(runs), size)]

    def _within_memory(
        self, runs: list[PackedRun], work: Callable[[list[PackedRun]], None]
    ) -> None:
        """Do `work` on the runs, or on halves of them from now on if memory runs out."""
        self.before_pass(runs)
        try:
            work(runs)
            return
        except (torch.OutOfMemoryError, DeviceMemoryError) as error:
            reason = one_line(str(error), 300)
        for run in runs:
            run.begin_step()
        gc.collect()
        torch.cuda.empty_cache()
        if len(runs) == 1:
            self._isolated(runs[0], functools.partial(runs[0].halve_micro_batch, reason))
            return
        half = self.max_packed = (len(runs) + 1) // 2
        logger.warning(
            f"no memory on the device for {len(runs)} trainings at a time: {half} from now on"
        )
        self._within_memory(runs[:half], work)
        self._within_memory(runs[half:], work)

    def _isolated(self, run: PackedRun, work: Callable[[], None]) -> None:
        """Do the work of one run, whose failure is its own; remove it at its end."""
        try:
            work()
        except Exception as error:
            self.errors[run] = error
        if run.result or run in self.errors:
            self.remove(run)

    def _add_gradients(self, runs: list[PackedRun]) -> None:
        """Add the gradient of one micro-batch of each run; a loss is over its run's whole step."""
        batches = [run.next_rows for run in runs]
        rows = [row for batch in batches for row in batch]
        ids = _padded([row.input_ids for row in rows], self.pad, self.device)
        labels = _padded([row.labels for row in rows], IGNORED, self.device)
        # The token before a summary predicts its first one.
        targets = functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
        counted = targets != IGNORED
        owners = torch.tensor([place for place, batch in enumerate(batches) for _ in batch])
        owners = owners.to(ids.device)[:, None].expand_as(ids)[counted]
        slices = [
            BatchSlice(self.runs.index(run), len(batch), max(len(row.ids) for row in batch))
            for run, batch in zip(runs, batches, strict=True)
        ]
        recompute = any(run.settings.activation_checkpointing for run in runs)
        self.base.train()
        with (
            self._recomputed() if recompute else contextlib.nullcontext(),
            self._stack.apply(slices, training=True, recompute=recompute),
            training_attention(self.base, self.device, *ids.shape),
        ):
            logits = self._logits(ids, counted).float()
            nll = functional.cross_entropy(logits, targets[counted], reduction="none")
            tokens = torch.tensor([float(run.tokens) for run in runs], device=ids.device)
            losses = torch.zeros_like(tokens).index_add(0, owners, nll) / tokens
            losses.sum().backward()
        for run, loss in zip(runs, losses.tolist(), strict=True):
            run.add_loss(loss)

    def _logits(self, ids: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
        """Return the logits at the `counted` positions: [positions, vocabulary]."""
        hook = self.base.get_output_embeddings().register_forward_pre_hook(
            lambda _, inputs: inputs[0][counted]
        )
        try:
            with self.device.autocast():
                logits: torch.Tensor = self.base(input_ids=ids, use_cache=False).logits
        finally:
            hook.remove()
        return logits

    @contextlib.contextmanager
    def _recomputed(self) -> Iterator[None]:
        self.base.gradient_checkpointing_enable({"use_reentrant": False})
        try:
            yield
        finally:
            self.base.gradient_checkpointing_disable()

    def _evaluate(self, runs: list[PackedRun]) -> None:
        """Evaluate, exact over tokens, in the batches that each run would have alone."""
        self.base.eval()
        rows = runs[0].job.evaluated_rows
        micro_batch = max(run.micro_batch for run in runs)
        longest = max(run.job.longest_row for run in runs)
        losses: list[dict[int, RowLoss]] = [{} for _ in runs]
        with training_attention(self.base, self.device, micro_batch, longest):
            for batch in length_batches([len(row.ids) for row in rows], EVAL_BATCH_SIZE):
                slices = [BatchSlice(self.runs.index(run), len(batch), 0) for run in runs]
                batch_rows = [rows[i] for i in batch] * len(runs)
                with self._stack.apply(slices):
                    of_all = batch_losses(self.base, batch_rows, self.pad, self.device)
                for place, own in enumerate(losses):
                    own |= zip(batch, of_all[place * len(batch) :], strict=False)
        memory = peak_memory(self.device)
        for run, own in zip(runs, losses, strict=True):
            in_order = [own[i] for i in range(len(rows))]
            self._isolated(run, functools.partial(run.add_evaluation, in_order, memory))


def _padded(rows: Sequence[Sequence[int]], value: int, device: Device) -> torch.Tensor:
    """Return the rows as one tensor, [rows, longest], filled up on the right."""
    tensors = [torch.tensor(row) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=value).to(device.name)


def fit_packed(
    jobs: Sequence[TrainingJob], max_packed: int | None = None
) -> list[TrainingResult | Exception]:
    """Do the work of `fit_adapter` for all `jobs` in one process, over the base of the first.

    At most `max_packed` of them go through the base in one pass. Return the result of each, or the
    error that ended it. A signal ends them all, with a checkpoint of each.
    """
    config = jobs[0].config.model
    device = choose_device(config)
    if device.name == "cuda":
        torch.cuda.reset_peak_memory_stats()
    pad = load_tokenizer(config).pad_token_id
    trainer = PackedTrainer(load_base(config), pad, device, max_packed)
    try:
        with signals.deferred_stop() as stop_signal:
            runs = [trainer.add(job) for job in jobs]
            while trainer.runs:
                trainer.advance()
                if number := stop_signal():
                    for run in trainer.runs:
                        run.save()
                    raise Stopped(number)
    finally:
        trainer.close()
    return [run.result or trainer.errors[run] for run in runs]
