"""The command line called as a user calls it, in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest


class Answer(NamedTuple):
    """What a call left: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Return a function that runs ``geneformer-grn ARGUMENTS``."""
    from geneformer_grn.cli import main

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        return Answer(int(left.value.code or 0), *capsys.readouterr())

    return run
