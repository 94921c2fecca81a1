"""Results that are kept for the next request: of all kinds in one order of use, within one budget in bytes. No Qt."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from types import FrameType, FunctionType, ModuleType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch

from featup_app.backbones import Backbone
from featup_app.base.peak_memory import release_free_memory

PICTURES_KEPT = 3
"""Pictures whose results are kept. Few people go back further, and a sitting with many pictures stays as small as one with few,
whatever the budget is."""

_Value = TypeVar("_Value")
_Blocks = Mapping[int, int]
_NOT_FOLLOWED = (type, ModuleType, FrameType, str, int, float, complex, bool, type(None))


@dataclass
class _Entry:
    """A result, the picture that it belongs to, and the blocks of memory that it refers to, as they were counted last."""

    value: Any
    picture: Hashable | None
    blocks: _Blocks = field(default_factory=dict)


class Kept:
    """Results by kind and key. The oldest are dropped where all together need more than the budget, or are of many pictures.

    Memory that several results refer to counts once, and a result is dropped only if that frees memory. What the current
    request has used is not dropped, so that a budget smaller than one request needs leaves those results alone. Not
    thread-safe, but for :attr:`bytes`, which any thread may read.

    Args:
        budget: bytes.
        beside: other objects whose memory counts, which are never dropped here.

    Attributes:
        budget: as given; a change takes effect at the next :meth:`settle`.
        bytes: that all results and the objects beside them refer to, as of the last :meth:`settle`.
    """

    def __init__(self, budget: int, *, beside: object = None) -> None:
        self.budget, self._beside = budget, beside
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._uncounted: set[Hashable] = set()
        self._in_use: set[Hashable] = set()
        self._picture: Hashable | None = None
        self._freed = False
        self.bytes = 0

    def get(self, kind: str, key: Hashable, make: Callable[[], _Value], *, picture: Hashable | None = None) -> _Value:
        """The result of a kind for a key, made now unless it is kept. What ``make`` raises is raised, and nothing is kept.

        Args:
            kind: of the result; keys of different kinds differ.
            key: equal for equal results. What it refers to counts with the result.
            make: computes the result; it may get others.
            picture: that the result belongs to; None for what serves all pictures, such as a backbone.
        """
        if picture is not None and picture != self._picture:
            self._picture = picture
            self._in_use.clear()
        name = kind, key
        made = name not in self._entries
        if made:
            self._freed = True  # what making it needed
            self._entries[name] = _Entry(make(), picture)
        entry = self._entries[name]
        self._entries.move_to_end(name)
        self._uncounted.add(name)
        self._in_use.add(name)
        if made:
            self._drop_beyond(self.budget)
        value: _Value = entry.value
        return value

    def settle(self) -> None:
        """A request has ended: count what it used, which may have grown, drop what is too much, and give back what is free."""
        self._drop_beyond(self.budget)
        self._give_back()
        self._in_use.clear()
        self._uncounted.clear()

    def free(self, wanted: float) -> None:
        """Drop the oldest results, until so many bytes less are kept or only what the current request uses is left."""
        self._drop_beyond(max(0.0, self.bytes - wanted))
        self._give_back()

    def touch(self, picture: Hashable) -> None:
        """Count what is kept of a picture as used last, so that it is dropped after what is kept of others."""
        for name in [name for name, entry in self._entries.items() if entry.picture == picture]:
            self._entries.move_to_end(name)

    def has_room(self) -> bool:
        """Whether the budget holds as many pictures as may be kept, if each needs as much as the largest that is kept now."""
        shared = dict(memory_blocks(self._beside))
        by_picture: dict[Hashable, dict[int, int]] = {}
        for entry in self._entries.values():
            blocks = shared if entry.picture is None else by_picture.setdefault(entry.picture, {})
            blocks |= entry.blocks
        own = (sum(size for address, size in blocks.items() if address not in shared) for blocks in by_picture.values())
        return sum(shared.values()) + PICTURES_KEPT * max(own, default=0) <= self.budget

    def _drop_beyond(self, budget: float) -> None:
        for name in self._uncounted & self._entries.keys():
            entry = self._entries[name]
            entry.blocks = memory_blocks((name, entry.value))
        self._uncounted &= self._in_use  # these may still grow
        held = dict(memory_blocks(self._beside))
        total, full, pictures = sum(held.values()), False, set[Hashable]()
        for name, entry in reversed(list(self._entries.items())):
            pictures |= {entry.picture} - {None}
            own = {address: size for address, size in entry.blocks.items() if address not in held}
            needed = sum(own.values())
            full = full or total + needed > budget
            old = entry.picture is not None and len(pictures) > PICTURES_KEPT
            if name not in self._in_use and (old or (full and needed)):
                del self._entries[name]
                self._freed = True
            else:
                held |= own
                total += needed
        self.bytes = total

    def _give_back(self) -> None:
        """Return freed memory to the system, if there can be some worth the time."""
        if self._freed:
            self._freed = False
            release_free_memory()


def memory_blocks(*values: object) -> dict[int, int]:
    """The blocks of memory of all tensors and arrays that values refer to: bytes by address, on whatever device they lie.

    Follows attributes, containers and closures, but neither weak references nor the globals of functions.
    """
    blocks: dict[int, int] = {}
    seen: set[int] = set()
    waiting: list[Any] = list(values)
    while waiting:
        value = waiting.pop()
        if isinstance(value, _NOT_FOLLOWED) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            blocks |= _blocks_of_tensor(value)
        elif isinstance(value, np.ndarray):
            blocks |= _block_of_array(value)
        elif isinstance(value, Backbone):
            blocks |= _blocks_of_backbone(value)
        elif isinstance(value, FunctionType):
            waiting += [value.__closure__, value.__defaults__, value.__kwdefaults__]
        else:
            waiting += gc.get_referents(value)
    return blocks


def _blocks_of_tensor(tensor: torch.Tensor) -> dict[int, int]:
    found = {} if tensor.grad is None else _blocks_of_tensor(tensor.grad)
    if tensor.device.type != "meta" and tensor.layout == torch.strided:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
    return found


def _block_of_array(array: np.ndarray[Any, Any]) -> dict[int, int]:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return {int(array.__array_interface__["data"][0]): array.nbytes}


_of_backbones: WeakKeyDictionary[Backbone, dict[int, int]] = WeakKeyDictionary()
"""Counted once: a backbone does not grow, and every map and field refers to one."""


def _blocks_of_backbone(backbone: Backbone) -> dict[int, int]:
    known = _of_backbones.get(backbone)
    if known is None:
        known = _of_backbones[backbone] = {}  # it refers to itself
        known |= memory_blocks(vars(backbone))
    return known
