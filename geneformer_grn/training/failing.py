"""When one process of several fails, all of them end, soon, and one message says why.

A process that fails leaves the others in a collective call that nobody joins: gloo then breaks off with an
error about connections, NCCL waits for minutes. So a failure is noted where all processes look, the
launcher's key-value store. Who fails first tells its error; the others end without one, by themselves or,
stuck in a call, by a thread that watches the note.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from geneformer_grn._runtime import logger

EXIT_CODE = 1  # of the processes that only follow
_NOTE = "geneformer_grn/failed"
_LOOK_EVERY_S = 1.0
_TELL_FIRST_S = 2.0  # the launcher ends all when one exits: let that be the one with the message
_GRACE_S = 5.0  # to end by itself: batches that are not finite are saved by every process


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Let an error in the block end all processes of the run, and only the first one tell what it was.

    With one process it does nothing.

    Raises
    ------
    SystemExit
        In place of this process's error, where another process failed before.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        yield
        return
    store = _get_default_store()
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(store, ended), name="failures", daemon=True)
    watcher.start()
    try:
        yield
    except Exception:
        if _is_first(store):
            raise
        logger.warning("process %d ends, since another one failed", dist.get_rank())
        time.sleep(_TELL_FIRST_S)
        raise SystemExit(EXIT_CODE) from None
    finally:
        ended.set()
        watcher.join()


def _is_first(store: dist.Store) -> bool:
    """Note a failure; return whether it is the first. A store that is gone was taken down by another one."""
    try:
        return bool(store.add(_NOTE, 1) == 1)
    except RuntimeError:
        return False


def _watch(store: dist.Store, ended: threading.Event) -> None:
    """End this process some seconds after another one noted a failure, or took the store with it."""
    while not ended.wait(_LOOK_EVERY_S):
        try:
            failed = store.check([_NOTE])
        except RuntimeError:
            failed = True
        if failed and not ended.wait(_GRACE_S):
            logger.warning("process %d ends, since another one failed", dist.get_rank())
            os._exit(EXIT_CODE)  # nothing milder reaches a thread that waits in a collective call
