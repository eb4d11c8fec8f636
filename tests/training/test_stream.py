from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from geneformer_grn.cells.batches import BatchSettings
from geneformer_grn.training.stream import Prefetched, Share, training_steps

SETTINGS = BatchSettings(token_budget=300, seed=3)


def one_epoch(corpus, vocabulary, share: Share, start=(0, 0)):
    steps = []
    for step in training_steps(corpus, vocabulary, SETTINGS, share=share, start=start):
        if step.after[0] > start[0]:
            return steps
        steps.append(step)
    return steps


def cells_of(step) -> list[int]:
    return [cell for batch in step.batches for cell in batch.cell_index.tolist() if cell >= 0]


def test_two_processes_do_what_two_accumulated_batches_do(corpus, tiny_vocabulary):
    together = one_epoch(corpus, tiny_vocabulary, Share(0, 1, 2))
    first = one_epoch(corpus, tiny_vocabulary, Share(0, 2, 1))
    second = one_epoch(corpus, tiny_vocabulary, Share(1, 2, 1))
    assert len(together) == len(first) == len(second)
    for whole, left, right in zip(together, first, second, strict=True):
        assert sorted(cells_of(whole)) == sorted(cells_of(left) + cells_of(right))
        assert not set(cells_of(left)) & set(cells_of(right))
        assert whole.n_masked == left.n_masked + right.n_masked
        assert whole.n_tokens == left.n_tokens + right.n_tokens
        assert whole.numbers == (left.numbers + right.numbers)[: len(whole.numbers)]
    seen = [cell for step in together for cell in cells_of(step)]
    assert sorted(seen) == list(range(len(corpus)))


@pytest.mark.parametrize("share", [Share(), Share(1, 2, 1), Share(0, 1, 3)])
def test_any_place_is_a_place_to_resume(corpus, tiny_vocabulary, share: Share):
    stream = list(islice(training_steps(corpus, tiny_vocabulary, SETTINGS, share=share), 25))
    assert stream[-1].after[0] > 0, "reaches into the second epoch"
    for made in (1, 4, 9, 17):
        start = stream[made - 1].after
        resumed = training_steps(corpus, tiny_vocabulary, SETTINGS, share=share, start=start)
        for expected, found in zip(stream[made : made + 6], resumed, strict=False):
            assert expected.numbers == found.numbers
            assert expected.after == found.after
            for ours, theirs in zip(expected.batches, found.batches, strict=True):
                assert torch.equal(ours.input_ids, theirs.input_ids)
                assert torch.equal(ours.labels, theirs.labels)


def test_another_number_of_processes_goes_on_from_the_same_place(corpus, tiny_vocabulary):
    first_half = list(islice(training_steps(corpus, tiny_vocabulary, SETTINGS, share=Share(0, 2)), 2))
    alone = next(training_steps(corpus, tiny_vocabulary, SETTINGS, share=Share(), start=first_half[-1].after))
    assert alone.numbers == [(0, 4)]


def test_prefetching_changes_nothing_and_ends(corpus, tiny_vocabulary):
    plain = list(islice(training_steps(corpus, tiny_vocabulary, SETTINGS, share=Share()), 8))
    with Prefetched(
        training_steps(corpus, tiny_vocabulary, SETTINGS, share=Share()), torch.device("cpu")
    ) as ready:
        ahead = list(islice(ready, 8))
    assert [step.numbers for step in ahead] == [step.numbers for step in plain]
    np.testing.assert_array_equal(ahead[-1].batches[0].input_ids, plain[-1].batches[0].input_ids)
    assert not ready._thread.is_alive()


def test_an_error_in_the_thread_reaches_the_loop():
    def broken():
        raise OSError("the shard vanished")
        yield

    with Prefetched(broken(), torch.device("cpu")) as ready, pytest.raises(OSError, match="shard vanished"):
        next(ready)
