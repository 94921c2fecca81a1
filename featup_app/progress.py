"""Progress and cancellation in one small protocol.

Long functions take ``progress: Progress = silent`` and call ``progress(stage, done, total)`` between short steps, where
``stage`` is a few words for the person ("upsampling"), and ``done`` of ``total`` steps are finished (``total`` 0 means
unknown). The callee of that call may raise :class:`~featup_app.errors.Cancelled`; the long function lets it pass after
cleaning up. That is the only way a computation is stopped, so no step between two calls may take longer than about a
quarter of a second where that can be helped.
"""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """A progress that tells no one and never cancels."""
