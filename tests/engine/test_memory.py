"""Memory limits: plausible numbers, readable sentences, and sizes that really fit when they are named."""

from __future__ import annotations

import re

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featup_app.base.errors import SizeError
from featup_app.base.words import human_bytes
from featup_app.engine import memory


def test_available_memory_is_plausible():
    total = psutil.virtual_memory().total
    assert 2**26 < memory.available_bytes() <= total


def test_the_memory_of_this_process_grows_with_what_it_holds():
    before = memory.process_bytes()
    held = bytearray(b"x") * 2**26
    assert memory.process_bytes() - before == pytest.approx(len(held), rel=0.1)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.7, "1.0 kB"),
        (1000, "1.0 kB"),
        (1536, "1.5 kB"),
        (99_960, "100 kB"),
        (123_456, "123 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (999_999, "1.0 MB"),
        (12_345_678, "12.3 MB"),
        (999_999_999, "1.0 GB"),
        (6.4e9, "6.4 GB"),
        (999.7e9, "1.0 TB"),
        (3e12, "3.0 TB"),
        (250e12, "250 TB"),
    ],
)
def test_bytes_in_words(count, words):
    assert human_bytes(count) == words


@given(st.floats(0, 999e12))
def test_never_four_digits(count):
    number, unit = human_bytes(count).split(" ")
    assert unit in ("B", "kB", "MB", "GB", "TB")
    assert len(number.replace(".", "")) <= 3
    shown = float(number) * 1000 ** ("B", "kB", "MB", "GB", "TB").index(unit)
    assert shown == pytest.approx(count, rel=0.051, abs=0.5)


sides = st.integers(1, 32768)


@given(
    size=st.tuples(sides, sides),
    per_pixel=st.floats(1, 5000),
    fixed=st.integers(0, 10**6),
    budget=st.integers(1, 10**11),
)
def test_the_size_that_is_named_fits_and_hardly_more_would(size, per_pixel, fixed, budget):
    def needed(wanted):
        return fixed + wanted[0] * wanted[1] * per_pixel

    if needed(size) <= budget:
        memory.check_output_fits(size, needed, budget)
        return
    with pytest.raises(SizeError) as refused:
        memory.check_output_fits(size, needed, budget)
    sentence = str(refused.value)
    assert f"An output of {size[0]}x{size[1]} pixels needs about {human_bytes(needed(size))}" in sentence
    named = re.search(r"(\d+)x(\d+) would work", sentence)
    if needed((1, 1)) > budget:
        assert named is None, "nothing works, so nothing is named"
        return
    height, width = int(named[1]), int(named[2])
    memory.check_output_fits((height, width), needed, budget)
    assert height <= size[0]
    assert width <= size[1]
    if min(height, width) > 50:
        assert height / size[0] == pytest.approx(width / size[1], rel=0.03)
        assert needed((height + 2, width + 2)) > budget


def test_needs_that_fall_in_between_still_give_a_size_that_fits():
    def needed(size):  # weights that are kept only while they are small, as the fields' are
        pixels = size[0] * size[1]
        return pixels * 8 + (pixels * 196 if pixels < 10**6 else 0)

    with pytest.raises(SizeError) as refused:
        memory.check_output_fits((4000, 4000), needed, 20e6)
    height, width = map(int, re.search(r"(\d+)x(\d+) would work", str(refused.value)).groups())
    memory.check_output_fits((height, width), needed, 20e6)
