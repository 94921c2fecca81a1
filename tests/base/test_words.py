"""Quantities in words."""

from __future__ import annotations

import pytest

from featup_app.base.words import counted


@pytest.mark.parametrize(("count", "text"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps"), (1200, "1,200 steps")])
def test_counts_agree_with_their_words(count, text):
    assert counted(count, "step") == text
