"""Kept results: every byte counts once, one order of use over all kinds, and never less than the current request needs."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featup_app.engine import kept, memory
from featup_app.engine.kept import PICTURES_KEPT, Kept, memory_blocks

KILO = 1000


def held(*values: object) -> int:
    return sum(memory_blocks(*values).values())


def made(store: Kept, kind: str, key: object, size: int, **options: object) -> torch.Tensor:
    """Get a result of so many bytes."""
    return store.get(kind, key, lambda: torch.zeros(size, dtype=torch.uint8), **options)


def keys(store: Kept) -> list[object]:
    return [name[1] for name in store._entries]


@pytest.fixture(autouse=True, scope="module")
def given_back() -> Iterator[list[int]]:
    """A call for each time that memory was given back, which takes long."""
    calls: list[int] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kept, "release_free_memory", lambda: calls.append(1))
        yield calls


# -- counting --------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Holder:
    first: object = None
    second: object = None


class Slotted:
    __slots__ = ("inside",)

    def __init__(self, inside: object) -> None:
        self.inside = inside


WAYS = {
    "itself": lambda tensor: tensor,
    "a part of it": lambda tensor: tensor[3:5],
    "its transpose": lambda tensor: tensor.view(10, 100).T,
    "an array of it": lambda tensor: tensor.numpy(),
    "a part of an array of it": lambda tensor: tensor.numpy()[2:][::2],
    "a list": lambda tensor: [1, [tensor]],
    "keys and values": lambda tensor: {(tensor, 1): {"x": tensor}},
    "attributes": lambda tensor: Holder(Holder(None, tensor), tensor[1:]),
    "slots": Slotted,
    "a closure": lambda tensor: lambda: tensor,
    "a partial": lambda tensor: partial(print, tensor),
    "a module": lambda tensor: torch.nn.ParameterList([torch.nn.Parameter(tensor)]),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_block_of_memory_counts_whole_and_once_however_it_is_held(way):
    tensor = torch.zeros(KILO)
    holder = WAYS[way](tensor)
    assert held(holder) == tensor.nbytes
    assert held(holder, tensor, [holder]) == tensor.nbytes


def test_different_blocks_add_up():
    first, second = torch.zeros(KILO), np.zeros(KILO)
    assert held(first, [second], first[1:]) == first.nbytes + second.nbytes


def test_gradients_and_cycles_are_counted_and_weak_references_are_not():
    parameter = torch.nn.Parameter(torch.zeros(KILO))
    parameter.grad = torch.ones(KILO)
    holder = Holder(parameter)
    holder.second = holder
    assert held(holder) == 2 * parameter.nbytes
    cache = weakref.WeakKeyDictionary()
    cache[holder] = None
    assert held(weakref.ref(parameter), cache) == 0


def test_no_memory_counts_for_what_holds_none():
    assert held(None, 3, "words", Holder, torch, test_no_memory_counts_for_what_holds_none, print) == 0
    assert held(torch.zeros(KILO, device="meta")) == 0


# -- dropping --------------------------------------------------------------------------------------------------------------


@given(
    uses=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 4)), min_size=1, max_size=30),
    budget=st.integers(0, 12),
)
def test_the_latest_uses_that_fit_are_kept(uses, budget):
    """Sizes of the first use count; each use is a request of its own."""
    store, sizes = Kept(budget * KILO), {}
    order: list[str] = []
    for key, size in uses:
        made(store, "kind", key, KILO * (size if key not in order else sizes[key]))
        if key not in order:
            sizes[key] = size
        order = [other for other in order if other != key] + [key]
        store.settle()
        while len(order) > 1 and sum(sizes[each] for each in order) > budget:
            order.pop(0)
        assert keys(store) == order
        assert store.bytes == KILO * sum(sizes[each] for each in order)


def test_kinds_share_one_order_but_no_keys():
    store = Kept(3 * KILO)
    for kind in ("map", "field", "map", "logits", "click"):
        made(store, kind, 1, KILO)
        store.settle()
    assert [name[0] for name in store._entries] == ["map", "logits", "click"]


def test_a_hit_is_not_made_again_and_a_failure_is_not_kept():
    store = Kept(KILO)
    first = made(store, "kind", 1, 10)
    assert store.get("kind", 1, lambda: pytest.fail("made again")) is first
    with pytest.raises(ZeroDivisionError):
        store.get("kind", 2, lambda: 1 // 0)
    assert keys(store) == [1]


def test_what_the_request_uses_is_kept_whatever_the_budget():
    store = Kept(1)
    whole = store.get("kind", "outer", lambda: [made(store, "kind", key, KILO) for key in range(3)])
    assert keys(store) == [0, 1, 2, "outer"]
    assert store.get("kind", "outer", lambda: pytest.fail("made again")) is whole
    assert store.bytes == 3 * KILO
    store.settle()
    assert keys(store) == [0, 1, 2, "outer"], "until another request comes"
    made(store, "kind", "next", KILO)
    assert keys(store) == ["next"]


def test_results_grow_after_they_are_made_and_count_with_that():
    store = Kept(3 * KILO)
    growing: list[torch.Tensor] = store.get("kind", "growing", list)
    store.settle()
    made(store, "kind", "other", KILO)
    store.get("kind", "growing", list)
    growing.append(torch.zeros(2 * KILO, dtype=torch.uint8))
    store.settle()
    assert store.bytes == 3 * KILO
    store.get("kind", "growing", list).append(torch.zeros(1, dtype=torch.uint8))
    store.settle()
    assert keys(store) == ["growing"]


def test_what_frees_nothing_is_not_dropped():
    store = Kept(2 * KILO)
    shared = made(store, "map", 1, KILO)
    made(store, "other", 2, KILO)
    store.settle()
    store.get("field", 3, lambda: [shared, torch.zeros(KILO, dtype=torch.uint8)])
    store.settle()
    assert keys(store) == [1, 3]
    assert store.bytes == 2 * KILO


def test_memory_beside_leaves_less_for_results():
    beside: list[torch.Tensor] = []
    store = Kept(3 * KILO, beside=beside)
    for key in range(3):
        made(store, "kind", key, KILO)
    beside.append(torch.zeros(2 * KILO, dtype=torch.uint8))
    store.settle()  # these were used by the request that ends
    store.settle()
    assert keys(store) == [2]
    assert store.bytes == 3 * KILO


def test_a_smaller_budget_and_a_shortage_drop_the_oldest():
    store = Kept(10 * KILO)
    for key in range(6):
        made(store, "kind", key, KILO)
    store.settle()
    store.free(1.5 * KILO)
    assert keys(store) == [2, 3, 4, 5]
    store.budget = 3 * KILO
    store.settle()
    assert keys(store) == [3, 4, 5]
    made(store, "kind", 4, KILO)
    store.free(100 * KILO)
    assert keys(store) == [4], "the request uses it"


def test_results_of_the_last_pictures_are_kept_and_what_serves_all_pictures_stays():
    store = Kept(1000 * KILO)
    made(store, "backbone", "all", KILO)
    for number in range(10):
        for kind in ("map", "field"):
            made(store, kind, number, KILO, picture=number)
        store.settle()
    made(store, "map", 8, KILO, picture=8)
    made(store, "map", 10, KILO, picture=10)
    pictures = {entry.picture for entry in store._entries.values()} - {None}
    assert pictures == {8, 9, 10}
    assert len(pictures) == PICTURES_KEPT
    assert "all" in keys(store)


def test_pictures_without_the_end_of_a_request_do_not_add_up():
    """Such as a loop over pictures that asks for features alone."""
    store = Kept(2 * KILO)
    for number in range(10):
        made(store, "map", number, KILO, picture=number)
    assert keys(store) == [8, 9]


def test_memory_is_given_back_after_something_was_made_or_dropped(given_back):
    store = Kept(2 * KILO)
    given_back.clear()
    for key in (0, 0, 1, 0):
        made(store, "kind", key, KILO)
        store.settle()
    assert given_back == [1, 1], "not after requests that found everything"
    store.free(1)
    assert given_back == [1, 1, 1]


# -- how much --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "limit"), [("max\n", None), ("123456789\n", 123456789), (f"{2**63}\n", None)])
def test_a_container_may_have_less_memory_than_the_machine(tmp_path, monkeypatch, text, limit):
    path = tmp_path / "memory.max"
    path.write_text(text)
    monkeypatch.setattr(memory, "_CONTAINER_LIMITS", (tmp_path / "missing", path))
    total = memory.psutil.virtual_memory().total
    assert memory.machine_bytes() == (limit or total)
    assert memory.default_keep_bytes() == memory.machine_bytes() // 3


# -- ahead of being asked --------------------------------------------------------------------------------------------------


def test_what_is_touched_is_dropped_last():
    store = Kept(100 * KILO)
    for picture in "abc":
        made(store, "map", picture, KILO, picture=picture)
    store.touch("a")
    made(store, "map", "d", KILO, picture="d")
    store.settle()
    assert keys(store) == ["c", "a", "d"]
    store.touch("not kept")
    assert keys(store) == ["c", "a", "d"]


def test_there_is_room_if_every_picture_that_may_be_kept_could_be_as_large_as_the_largest():
    backbone = torch.zeros(5 * KILO, dtype=torch.uint8)
    store = Kept(5 * KILO + PICTURES_KEPT * 4 * KILO)
    assert store.has_room()
    store.get("backbone", "b", lambda: backbone)
    store.get("map", "a", lambda: (backbone, torch.zeros(3 * KILO, dtype=torch.uint8)), picture="a")
    made(store, "field", "a", KILO, picture="a")
    made(store, "map", "small", KILO, picture="small")
    store.settle()
    assert store.has_room(), "the backbone is one for all pictures"
    made(store, "logits", "a", 10, picture="a")
    store.settle()
    assert not store.has_room()
