"""Who trains together: passes of all present members' micro-batches through one base.

Members join and leave between passes. What happens to one, a loss that is not a number or a caller
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

from nutgraf import stopping
from nutgraf.attention import training_attention
from nutgraf.history import Fit
from nutgraf.inference import EVALUATED, NoMemory, RowLoss, batch_losses, batches
from nutgraf.loop import peak_memory
from nutgraf.member import Job, Member
from nutgraf.model import Device
from nutgraf.problems import Failure, one_line
from nutgraf.prompts import Example
from nutgraf.stopping import Stopped
from nutgraf.together import Part, Stack

logger = logging.getLogger(__name__)


class Members:
    """The trainings that go on together on `base`, over the same rows.

    `most` is how many micro-batches of members go through in one pass; None for all, until memory
    says otherwise.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        pad: int,
        train: Sequence[Example],
        validation: Sequence[Example],
        device: Device,
        most: int | None = None,
    ) -> None:
        if not train or not validation:
            raise Failure(
                f"{len(train)} training and {len(validation)} validation rows: both are needed"
            )
        if device.dtype == torch.float16:
            raise Failure("fp16 needs a loss scale a training: set search.together to off")
        self.base, self.pad, self.device, self.most = base, pad, device, most
        self.train, self.validation = train, validation
        self.present: list[Member] = []
        self.errors: dict[Member, Exception] = {}
        self.before: Callable[[list[Member]], None] = lambda group: None  # told of each group
        self._stack = Stack(base)

    def join(self, job: Job) -> Member:
        """A new member, or one that is `done` where it was finished before. Raises as Member."""
        member = Member(job, self.train, self.validation, self.device)
        if member.done is None:
            self._are([*self.present, member])
        return member

    def leave(self, member: Member) -> None:
        """Go on without it; it carries on from its newest checkpoint when it joins again."""
        self._are([other for other in self.present if other is not member])

    def close(self) -> None:
        """Leave the base as it was before."""
        self._are([])
        self.base.requires_grad_(False).eval()

    def _are(self, members: Sequence[Member]) -> None:
        self.present = list(members)
        self._stack.put([member.adapter for member in members])

    def advance(self) -> None:
        """One pass of those who are in a step, the steps that are summed up, due evaluations.

        An evaluation waits for others that end with one in the step that they are in, so that
        they are done together.
        """
        for group in self._groups([m for m in self.present if not m.evaluates]):
            self._together(group, self._pass)
        for member in list(self.present):
            if member.summed:
                self._alone(member, member.take_step)
        if any(not m.evaluates and m.evaluates_next for m in self.present):
            return
        for group in self._groups([m for m in self.present if m.evaluates]):
            self._together(group, self._evaluate)

    def _groups(self, members: Sequence[Member]) -> Iterator[list[Member]]:
        """So many of them at a time as go through in one pass, those of one kind together."""
        kinds: dict[bool, list[Member]] = {}
        for member in members:
            kinds.setdefault(member.settings.activation_checkpointing, []).append(member)
        for alike in kinds.values():
            at_once = self.most or len(alike)
            for start in range(0, len(alike), at_once):
                yield alike[start : start + at_once]

    def _together(self, group: list[Member], work: Callable[[list[Member]], None]) -> None:
        """`work` on the group, or on parts of it where memory is short, noted for what follows."""
        self.before(group)
        try:
            work(group)
            return
        except (torch.OutOfMemoryError, NoMemory) as error:
            reason = one_line(str(error), 300)
        for member in group:
            if not member.evaluates:
                member.begin_step()
        gc.collect()
        torch.cuda.empty_cache()
        if len(group) == 1:
            self._smaller(group[0], reason)
            return
        half = self.most = (len(group) + 1) // 2
        logger.warning(
            f"no memory on the device for {len(group)} trainings at a time: {half} from now on"
        )
        self._together(group[:half], work)
        self._together(group[half:], work)

    def _smaller(self, member: Member, reason: str) -> None:
        """Let one that has no memory even alone try with less, where it can."""
        try:
            if member.evaluates:  # in small batches, as they are
                raise Failure(reason)
            member.halve(reason)
        except Failure as error:
            self._out(member, error)

    def _alone(self, member: Member, work: Callable[[], None]) -> None:
        """`work` of one member, whose failure is its own."""
        try:
            work()
        except Exception as error:
            self._out(member, error)
        else:
            if member.done:
                self.leave(member)

    def _out(self, member: Member, error: Exception) -> None:
        self.errors[member] = error
        self.leave(member)

    def _pass(self, group: list[Member]) -> None:
        """Add the gradient of one micro-batch of each; every one's loss is over its own step."""
        batches = [member.micro_batch for member in group]
        rows = [row for batch in batches for row in batch]
        longest = max(len(row.ids) for row in rows)
        ids = torch.tensor(
            [row.input_ids + [self.pad] * (longest - len(row.ids)) for row in rows]
        ).to(self.device.name)
        # The token before a summary foretells its first one.
        told = [
            place * longest + position
            for place, row in enumerate(rows)
            for position in range(row.prompt_tokens - 1, len(row.ids) - 1)
        ]
        targets = [token for row in rows for token in row.input_ids[row.prompt_tokens :]]
        whose = [
            place
            for place, batch in enumerate(batches)
            for row in batch
            for _ in row.input_ids[row.prompt_tokens :]
        ]
        again = group[0].settings.activation_checkpointing
        self.base.train()
        with (
            self._recomputed(again),
            self._applied(group, batches, again),
            training_attention(self.base, self.device, *ids.shape),
        ):
            nll = functional.cross_entropy(
                self._logits(ids, told).float(),
                torch.tensor(targets, device=self.device.name),
                reduction="none",
            )
            losses = torch.zeros(len(group), device=self.device.name).index_add(
                0, torch.tensor(whose, device=self.device.name), nll
            ) / torch.tensor([float(m.tokens) for m in group], device=self.device.name)
            losses.sum().backward()
        for member, loss in zip(group, losses.tolist(), strict=True):
            member.loss(loss)

    def _logits(self, ids: torch.Tensor, told: list[int]) -> torch.Tensor:
        """Logits at the positions of the batch, laid out flat, that foretell a summary's tokens."""
        positions = torch.tensor(told, device=ids.device)
        output = self.base.get_output_embeddings()
        chosen = output.register_forward_pre_hook(
            lambda _, given: given[0].flatten(0, 1)[positions]
        )
        try:
            with self.device.autocast():
                found: torch.Tensor = self.base(input_ids=ids, use_cache=False).logits
        finally:
            chosen.remove()
        return found

    @contextlib.contextmanager
    def _applied(
        self, group: list[Member], batches: list[list[Example]], again: bool
    ) -> Iterator[None]:
        parts = [
            Part(self.present.index(member), len(batch), max(len(r.ids) for r in batch))
            for member, batch in zip(group, batches, strict=True)
        ]
        with self._stack.apply(parts, training=True, again=again):
            yield

    @contextlib.contextmanager
    def _recomputed(self, again: bool) -> Iterator[None]:
        if not again:
            yield
            return
        self.base.gradient_checkpointing_enable({"use_reentrant": False})
        try:
            yield
        finally:
            self.base.gradient_checkpointing_disable()

    def _evaluate(self, group: list[Member]) -> None:
        """Exact over tokens, in the batches that each alone would have."""
        self.base.eval()
        micro, longest = max(m.micro for m in group), max(m.longest for m in group)
        with training_attention(self.base, self.device, micro, longest):
            found = self._found(group)
        memory = peak_memory(self.device)
        for member, own in zip(group, found, strict=True):
            losses = [own[i] for i in range(len(member.validation))]
            self._alone(member, functools.partial(member.evaluated, losses, memory))

    def _found(self, group: list[Member]) -> list[dict[int, RowLoss]]:
        found: list[dict[int, RowLoss]] = [{} for _ in group]
        rows = self.validation
        most = max(len(member.validation) for member in group)
        for batch in batches([len(row.ids) for row in rows[:most]], EVALUATED):
            parts = [Part(self.present.index(m), len(batch), 0) for m in group]
            with self._stack.apply(parts):
                losses = batch_losses(
                    self.base, [rows[i] for i in batch] * len(group), self.pad, self.device
                )
            for place, own in enumerate(found):
                own |= zip(batch, losses[place * len(batch) :], strict=False)
        return found


def fit_together(
    base: PreTrainedModel,
    pad: int,
    train: Sequence[Example],
    validation: Sequence[Example],
    jobs: Sequence[Job],
    device: Device,
    most: int | None = None,
) -> list[Fit | Exception]:
    """Do all the jobs together; of each what it leaves, or what ended it.

    A signal ends it, with a checkpoint of each (`stopping`).
    """
    if device.name == "cuda":
        torch.cuda.reset_peak_memory_stats()
    members = Members(base, pad, train, validation, device, most)
    try:
        with stopping.later() as asked:
            joined = [members.join(job) for job in jobs]
            while members.present:
                members.advance()
                if number := asked():
                    for member in members.present:
                        member.save()
                    raise Stopped(number)
    finally:
        members.close()
    return [member.done or members.errors[member] for member in joined]
