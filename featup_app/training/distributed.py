"""Several processes that train one stack together, started by ``torchrun``; Lightning Fabric connects them.

Every process holds the whole training: the same weights, the same optimizer, the same curve. They differ in the examples that
they draw and in the held-out pictures that they measure. Gradients, losses and errors are averaged, so that all of them take
the same step and the same decisions; what can happen to one alone (a request to stop, a full disk) is passed to all where
:meth:`Processes.together` ends. The first process writes the files and all messages.

Without ``torchrun`` there is one process, :data:`ALONE`, and Fabric is not imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from featup_app.base.errors import Cancelled, FeatUpError, UpsamplerError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_PATIENCE = timedelta(days=1)
"""How long one process waits for another; one that dies is noticed at once, a slow one may take its time."""

_MESSAGE_BYTES = 1000
_CONTINUES, _CANCELLED, _FAILED = 0, 1, 2

Item = TypeVar("Item")


class Processes:
    """Who trains: here this process alone, in :class:`_Several` those that ``torchrun`` has started.

    Attributes:
        rank: number of this process, 0 .. count - 1.
        count: of processes.
    """

    rank = 0
    count = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """The part of a list that is this process's to work on."""
        return items[self.rank :: self.count]

    def mean(self, values: Sequence[float]) -> list[float]:
        """The means over the processes, bit for bit the same in all of them."""
        return list(values)

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums over the processes, bit for bit the same in all of them."""
        return list(values)

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace the gradients, float32, by their means over the processes."""

    def equalise(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the values of the first."""

    def together(self) -> AbstractContextManager[None]:
        """A cancellation or failure inside, in any of the processes, ends all of them when they reach the end of the block.

        Raises:
            Cancelled: in all processes, if one was cancelled.
            FeatUpError: in all processes, with the message of the lowest rank that failed.
        """
        return contextlib.nullcontext()

    def source(self, seed: int, step: int) -> torch.Generator | None:
        """The random generator of a step; None to go on with the training's own."""
        return None

    def device(self, wanted: str | None) -> str | None:
        """The device of this process's backbone, where the person has named none or any CUDA device."""
        return wanted

    def leave(self) -> None:
        """Wait for the others, and part."""


ALONE = Processes()


def started_by_torchrun() -> bool:
    """Whether this is one of several processes that ``torchrun`` has started."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this process writes the messages, known before they are connected."""
    return not started_by_torchrun() or os.environ.get("RANK", "0") == "0"


def join_processes() -> Processes:
    """Connect with the other processes of ``torchrun``; :data:`ALONE` if there are none.

    Raises:
        UpsamplerError: if Lightning Fabric is not installed, or the processes do not find each other.
    """
    if not started_by_torchrun():
        return ALONE
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies import DDPStrategy
    except ImportError as error:
        raise UpsamplerError(
            "Training in several processes needs Lightning Fabric, which is not installed: "
            '`pip install "featup-app[distributed]"`, or `pip install lightning-fabric`; one process needs nothing.'
        ) from error
    # Its notes about ranks and cloud services are not for the person who trains. (Importing it sets the level, too.)
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    world = int(os.environ["WORLD_SIZE"])
    here = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    try:
        fabric = Fabric(
            accelerator="cpu",  # where the stack learns; backbones may compute elsewhere
            devices=here,
            num_nodes=max(1, world // here),
            strategy=DDPStrategy(process_group_backend="gloo", timeout=_PATIENCE),
        )
        fabric.launch()
    except (RuntimeError, ValueError) as error:
        raise UpsamplerError(
            f"The {world} training processes could not be connected ({error}); check the arguments of torchrun, "
            "and that every computer runs as many processes."
        ) from error
    return _Several(fabric)


class _Several(Processes):
    """Processes that Fabric has connected. Everything they agree on is a sum: it is the same in all of them to the last bit."""

    def __init__(self, fabric: Any) -> None:
        self._fabric = fabric
        self.rank, self.count = int(fabric.global_rank), int(fabric.world_size)

    def _sum(self, tensor: Tensor) -> Tensor:
        summed: Tensor = self._fabric.all_reduce(tensor, reduce_op="sum")
        return summed

    def total(self, values: Sequence[float]) -> list[float]:
        import torch

        sums: list[float] = self._sum(torch.tensor(list(values), dtype=torch.float64)).tolist()
        return sums

    def mean(self, values: Sequence[float]) -> list[float]:
        return [value / self.count for value in self.total(values)]

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        import torch

        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            return
        flat = self._sum(torch.cat([gradient.flatten() for gradient in gradients])) / self.count
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def equalise(self, tensors: Iterable[Tensor]) -> None:
        import torch

        with torch.no_grad():
            for tensor in tensors:
                tensor.copy_(self._sum(tensor.detach().clone() if self.first else torch.zeros_like(tensor)))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        failure: FeatUpError | Cancelled | None = None
        try:
            yield
        except (FeatUpError, Cancelled) as error:
            failure = error
        outcome = _CONTINUES if failure is None else _CANCELLED if isinstance(failure, Cancelled) else _FAILED
        cancelled, failed = self.total([float(outcome == _CANCELLED), float(outcome == _FAILED)])
        if failed:
            message = self._first_message(str(failure) if outcome == _FAILED else "")
            raise (failure if isinstance(failure, FeatUpError) and self.first else UpsamplerError(message))
        if cancelled:
            raise Cancelled from failure

    def _first_message(self, message: str) -> str:
        """The message of the lowest rank that has one."""
        import torch

        rows = torch.zeros(self.count, _MESSAGE_BYTES, dtype=torch.int32)
        content = list(message.encode()[:_MESSAGE_BYTES])
        rows[self.rank, : len(content)] = torch.tensor(content, dtype=torch.int32)
        messages = [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in self._sum(rows).tolist()]
        return next((found for found in messages if found), "")

    def source(self, seed: int, step: int) -> torch.Generator | None:
        import torch

        # Of the step and the process alone, so that a checkpoint need not hold the sources of all processes.
        digest = hashlib.sha256(f"{seed} {step} {self.rank}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def device(self, wanted: str | None) -> str | None:
        import torch

        if wanted in (None, "cuda") and torch.cuda.is_available():
            return f"cuda:{self._fabric.local_rank % torch.cuda.device_count()}"
        return wanted

    def leave(self) -> None:
        import torch.distributed

        self._fabric.barrier()
        torch.distributed.destroy_process_group()
