"""Fixtures of the tests of commands."""

from __future__ import annotations

import pytest

from featup_app.cli.main import run


@pytest.fixture
def command(capsys):
    """Runs a command in this process: (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return call
