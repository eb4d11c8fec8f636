"""Which batches make up which step, from any place in the data on, prepared ahead by one thread.

The place is (epoch, batch of the epoch), counted over all processes, so a checkpoint needs two numbers. A
step never reaches over the end of an epoch: its last step takes what is left. That way two processes with one
batch each and one process with two accumulated ones do the same updates, to the end of every epoch.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch

from geneformer_grn.cells.batches import BatchSettings, PackedBatch, training_batches
from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.genes.vocabulary import GeneVocabulary


@dataclass(frozen=True)
class StepData:
    """What one process needs for one step.

    Parameters
    ----------
    batches
        Packed batches to accumulate.
    numbers
        Their places in the data: (epoch, batch of the epoch counted over all processes).
    n_masked, n_tokens
        Masked and real tokens of this process's batches.
    n_squared
        Sum of the squared lengths of their cells, which is what attention costs.
    after
        Place in the data behind this step, counted over all processes.
    """

    batches: list[PackedBatch]
    numbers: list[tuple[int, int]]
    n_masked: int
    n_tokens: int
    n_squared: int
    after: tuple[int, int]


@dataclass(frozen=True)
class Share:
    """Which process this is, of how many, and how many batches it accumulates in a step."""

    rank: int = 0
    world_size: int = 1
    accumulation: int = 1


def training_steps(
    corpus: Corpus,
    vocabulary: GeneVocabulary,
    settings: BatchSettings,
    *,
    share: Share,
    start: tuple[int, int] = (0, 0),
) -> Iterator[StepData]:
    """Yield the steps of one process without end, epoch after epoch.

    Parameters
    ----------
    corpus, vocabulary, settings
        As in `training_batches`.
    share
        This process's part of a step.
    start
        (epoch, batch) to begin at; with another number of processes than before, up to ``world_size - 1``
        batches may come again.
    """
    epoch, first = start[0], start[1] // share.world_size
    while True:
        batches = training_batches(
            corpus,
            vocabulary,
            settings,
            epoch=epoch,
            rank=share.rank,
            world_size=share.world_size,
            start_batch=first,
        )
        while group := list(islice(batches, share.accumulation)):
            numbers = [
                (epoch, place * share.world_size + share.rank) for place in range(first, first + len(group))
            ]
            first += len(group)
            lengths = torch.cat([batch.cell_lengths for batch in group])
            yield StepData(
                batches=group,
                numbers=numbers,
                n_masked=sum(int((batch.masked_index >= 0).sum()) for batch in group),
                n_tokens=int(lengths.sum()),
                n_squared=int(lengths.square().sum()),
                after=(epoch, first * share.world_size),
            )
        epoch, first = epoch + 1, 0


class Prefetched(Iterator[StepData]):
    """Steps prepared ahead in a thread, so that the device does not wait for masking and packing.

    Use it in a ``with`` block; leaving the block ends the thread. An error in the thread is raised by
    ``next``.

    Parameters
    ----------
    steps
        Where they come from.
    depth
        Steps held ready.
    device
        Where the steps go; the thread works for it.
    """

    def __init__(self, steps: Iterator[StepData], device: torch.device, *, depth: int = 4) -> None:
        self._steps = steps
        self._device = device
        self._ready: queue.Queue[StepData | BaseException] = queue.Queue(maxsize=depth)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="batches", daemon=True)

    def __enter__(self) -> Prefetched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def __next__(self) -> StepData:
        item = self._ready.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def _fill(self) -> None:
        try:
            if self._device.type == "cuda":  # page-locked memory belongs to a device
                torch.cuda.set_device(self._device)  # a thread begins on GPU 0, whichever this process uses
            for step in self._steps:
                if not self._put(step):
                    return
            self._put(StopIteration())
        except Exception as error:  # noqa: BLE001 - handed to the thread that asks for the next step
            self._put(error)

    def _put(self, item: StepData | BaseException) -> bool:
        """Queue `item`; False when nobody wants it any more."""
        while not self._ended.is_set():
            try:
                self._ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
