"""The instruction sets that the compiled operators are tested with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from featup_app.ops import c_interface, loading


@pytest.fixture(params=["baseline", "AVX2", "AVX-512"])
def instruction_set(request) -> Iterator[str]:
    """Each instruction set that this processor can run; the library uses it for the test."""
    library = loading.library()
    if library.featup_use_instruction_set(request.param.encode()) is not None:
        pytest.skip(f"this processor has no {request.param}, or the library is for another kind of processor")
    yield request.param
    c_interface.check(library.featup_use_instruction_set(b"best"))
