"""Trainings packed into one process: passes of all their micro-batches through one base.

Runs join and leave between passes. What happens to one, a loss that is not a number or a callback
that raises, ends that one alone.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from nutgraf.core import signals
from nutgraf.core.errors import Failure, one_line
from nutgraf.core.signals import Stopped
from nutgraf.modeling.attention import training_attention
from nutgraf.modeling.batching import length_batches
from nutgraf.modeling.dims import EVAL_BATCH_SIZE
from nutgraf.modeling.load import Device, choose_device, load_base, load_tokenizer
from nutgraf.modeling.losses import DeviceMemoryError, RowLoss, batch_losses
from nutgraf.training.history import Fit
from nutgraf.training.job import TrainingJob
from nutgraf.training.packed.lora import AdapterStack, BatchSlice
from nutgraf.training.packed.run import PackedRun
from nutgraf.training.sft_trainer import peak_memory

logger = logging.getLogger(__name__)


class PackedTrainer:
    """The trainings that share `base`; their jobs have the same validation rows.

    `max_packed` is how many micro-batches of runs go through in one pass; None for all, until
    memory runs out. `pad` is the id of the padding token. `before_pass` is called with the runs of
    each pass.

    Raises:
        Failure: for fp16, which needs a loss scale for each training.
    """

    def __init__(
        self, base: PreTrainedModel, pad: int, device: Device, max_packed: int | None = None
    ) -> None:
        if device.dtype == torch.float16:
            raise Failure("fp16 needs a loss scale a training: set search.together to off")
        self.base, self.pad, self.device, self.max_packed = base, pad, device, max_packed
        self.present: list[PackedRun] = []
        self.errors: dict[PackedRun, Exception] = {}
        self.before_pass: Callable[[list[PackedRun]], None] = lambda runs: None
        self._stack = AdapterStack(base)

    def join(self, job: TrainingJob) -> PackedRun:
        """Return a new run, with its `result` if it was finished before. Raises as PackedRun."""
        run = PackedRun(self.base, job, self.device)
        if run.result is None:
            self._set_present([*self.present, run])
        return run

    def leave(self, run: PackedRun) -> None:
        """Go on without `run`; it resumes from its newest checkpoint when its job joins again."""
        self._set_present([other for other in self.present if other is not run])

    def close(self) -> None:
        """Leave the base as it was before."""
        self._set_present([])
        self.base.requires_grad_(False).eval()

    def _set_present(self, runs: Sequence[PackedRun]) -> None:
        self.present = list(runs)
        self._stack.put([run.adapter for run in runs])

    def advance(self) -> None:
        """Do one pass, the steps whose gradients are complete, and the evaluations that are due.

        An evaluation waits for runs that evaluate after the step that they are in, so that they
        evaluate together.
        """
        for runs in self._groups([run for run in self.present if not run.evaluation_due]):
            self._within_memory(runs, self._add_gradients)
        for run in list(self.present):
            if run.gradient_complete:
                self._isolated(run, run.take_step)
        if any(not run.evaluation_due and run.evaluation_follows for run in self.present):
            return
        for runs in self._groups([run for run in self.present if run.evaluation_due]):
            self._within_memory(runs, self._evaluate)

    def _groups(self, runs: Sequence[PackedRun]) -> Iterator[list[PackedRun]]:
        """Yield as many runs as go through in one pass, with or without recomputation."""
        kinds: dict[bool, list[PackedRun]] = {}
        for run in runs:
            kinds.setdefault(run.settings.activation_checkpointing, []).append(run)
        for alike in kinds.values():
            size = self.max_packed or len(alike)
            for start in range(0, len(alike), size):
                yield alike[start : start + size]

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
            if not run.evaluation_due:
                run.begin_step()
        gc.collect()
        torch.cuda.empty_cache()
        if len(runs) == 1:
            self._shrink(runs[0], reason)
            return
        half = self.max_packed = (len(runs) + 1) // 2
        logger.warning(
            f"no memory on the device for {len(runs)} trainings at a time: {half} from now on"
        )
        self._within_memory(runs[:half], work)
        self._within_memory(runs[half:], work)

    def _shrink(self, run: PackedRun, reason: str) -> None:
        """Let a run that has too little memory alone go on in smaller micro-batches, or end it."""
        try:
            if run.evaluation_due:  # in small batches, as they are
                raise Failure(reason)
            run.halve_micro_batch(reason)
        except Failure as error:
            self._end(run, error)

    def _isolated(self, run: PackedRun, work: Callable[[], None]) -> None:
        """Do the work of one run, whose failure is its own."""
        try:
            work()
        except Exception as error:
            self._end(run, error)
        else:
            if run.result:
                self.leave(run)

    def _end(self, run: PackedRun, error: Exception) -> None:
        self.errors[run] = error
        self.leave(run)

    def _add_gradients(self, runs: list[PackedRun]) -> None:
        """Add the gradient of one micro-batch of each run; a loss is over its run's whole step."""
        batches = [run.next_rows for run in runs]
        rows = [row for batch in batches for row in batch]
        longest = max(len(row.ids) for row in rows)
        device = self.device.name
        ids = torch.tensor(
            [row.input_ids + [self.pad] * (longest - len(row.ids)) for row in rows]
        ).to(device)
        # The token before a summary predicts its first one.
        positions = [
            place * longest + position
            for place, row in enumerate(rows)
            for position in range(row.prompt_tokens - 1, len(row.ids) - 1)
        ]
        targets = [token for row in rows for token in row.input_ids[row.prompt_tokens :]]
        owners = [
            place
            for place, batch in enumerate(batches)
            for row in batch
            for _ in row.input_ids[row.prompt_tokens :]
        ]
        slices = [
            BatchSlice(self.present.index(run), len(batch), max(len(row.ids) for row in batch))
            for run, batch in zip(runs, batches, strict=True)
        ]
        recompute = runs[0].settings.activation_checkpointing
        self.base.train()
        with (
            self._recomputed(recompute),
            self._stack.apply(slices, training=True, recompute=recompute),
            training_attention(self.base, self.device, *ids.shape),
        ):
            nll = functional.cross_entropy(
                self._logits(ids, positions).float(),
                torch.tensor(targets, device=device),
                reduction="none",
            )
            losses = torch.zeros(len(runs), device=device).index_add(
                0, torch.tensor(owners, device=device), nll
            ) / torch.tensor([float(run.tokens) for run in runs], device=device)
            losses.sum().backward()
        for run, loss in zip(runs, losses.tolist(), strict=True):
            run.add_loss(loss)

    def _logits(self, ids: torch.Tensor, positions: list[int]) -> torch.Tensor:
        """Return the logits at `positions` of the batch laid out flat: [positions, vocabulary]."""
        chosen = torch.tensor(positions, device=ids.device)
        hook = self.base.get_output_embeddings().register_forward_pre_hook(
            lambda _, inputs: inputs[0].flatten(0, 1)[chosen]
        )
        try:
            with self.device.autocast():
                logits: torch.Tensor = self.base(input_ids=ids, use_cache=False).logits
        finally:
            hook.remove()
        return logits

    @contextlib.contextmanager
    def _recomputed(self, recompute: bool) -> Iterator[None]:
        if not recompute:
            yield
            return
        self.base.gradient_checkpointing_enable({"use_reentrant": False})
        try:
            yield
        finally:
            self.base.gradient_checkpointing_disable()

    def _evaluate(self, runs: list[PackedRun]) -> None:
        """Evaluate, exact over tokens, in the batches that each run would have alone."""
        self.base.eval()
        micro_batch = max(run.micro_batch for run in runs)
        longest = max(run.job.longest_row for run in runs)
        with training_attention(self.base, self.device, micro_batch, longest):
            losses = self._validation_losses(runs)
        memory = peak_memory(self.device)
        for run, own in zip(runs, losses, strict=True):
            rows = [own[i] for i in range(len(run.job.evaluated_rows))]
            self._isolated(run, functools.partial(run.add_evaluation, rows, memory))

    def _validation_losses(self, runs: list[PackedRun]) -> list[dict[int, RowLoss]]:
        losses: list[dict[int, RowLoss]] = [{} for _ in runs]
        rows = max((run.job.evaluated_rows for run in runs), key=len)
        for batch in length_batches([len(row.ids) for row in rows], EVAL_BATCH_SIZE):
            slices = [BatchSlice(self.present.index(run), len(batch), 0) for run in runs]
            with self._stack.apply(slices):
                of_all = batch_losses(
                    self.base, [rows[i] for i in batch] * len(runs), self.pad, self.device
                )
            for place, own in enumerate(losses):
                own |= zip(batch, of_all[place * len(batch) :], strict=False)
        return losses


def fit_packed(jobs: Sequence[TrainingJob], max_packed: int | None = None) -> list[Fit | Exception]:
    """Do the work of `fit_adapter` for all `jobs` in one process, over the base of the first.

    At most `max_packed` of them go through the base in one pass. Return of each its result, or
    what ended it. A signal ends them all, with a checkpoint of each.
    """
    config = jobs[0].config.model
    device = choose_device(config)
    if device.name == "cuda":
        torch.cuda.reset_peak_memory_stats()
    pad = load_tokenizer(config).pad_token_id
    trainer = PackedTrainer(load_base(config), pad, device, max_packed)
    try:
        with signals.deferred_stop() as stop_signal:
            runs = [trainer.join(job) for job in jobs]
            while trainer.present:
                trainer.advance()
                if number := stop_signal():
                    for run in trainer.present:
                        run.save()
                    raise Stopped(number)
    finally:
        trainer.close()
    return [run.result or trainer.errors[run] for run in runs]
