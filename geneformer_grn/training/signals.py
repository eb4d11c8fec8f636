"""Stopping a run from outside: a signal is remembered, the step ends, then the run saves and leaves."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from geneformer_grn._runtime import logger


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT in the list yielded, so that a step ends before the run does.

    A second signal has its usual effect. Outside the main thread nothing is caught.
    """
    received: list[int] = []
    previous: dict[int, Any] = {}

    def remember(number: int, _frame: Any) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, remember)
    except ValueError:  # not in the main thread: whoever started the thread handles signals
        logger.debug("signals are not caught outside the main thread")
    try:
        yield received
    finally:
        for caught, handler in previous.items():
            signal.signal(caught, handler)
