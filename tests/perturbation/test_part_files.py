"""Parts on disk: put back in the order of the requests, and refused where they are others."""

import numpy as np
import pandas as pd
import pytest

from geneformer_grn.cells.ranking import RankedCells
from geneformer_grn.perturbation.part_files import (
    PairTable,
    part_path,
    require_part,
    summed_slices,
    write_part,
)
from geneformer_grn.perturbation.parts import PartList, PartResult, add_sums
from geneformer_grn.perturbation.requests import Request


@pytest.fixture
def written(tiny_vocabulary, tmp_path):
    """Parts of a run with random values: the list, the files, the values and the sums."""
    rng = np.random.default_rng(5)
    ranked = RankedCells(
        tokens=np.tile(np.arange(5, 15, dtype=np.uint16), 30),
        offsets=np.arange(0, 301, 10),
        n_counts=np.ones(30),
    )
    requests = [
        Request(genes=(7 + number,), kind="delete", cells=rng.permutation(30)[: 5 * number])
        for number in range(6)
    ]
    parts = PartList(ranked, requests, tiny_vocabulary, part_tokens=100)
    values, sums = rng.normal(size=(parts.n_pairs, 2)), []
    for number in range(len(parts)):
        pairs = parts.pairs(number)
        frame = pd.DataFrame(
            {
                "request": pairs.request,
                "affected": pairs.cell.astype(np.int32) % 4,
                "n_cells": 1,
                "shift": values[pairs.row, 0],
            }
        )
        sums.append(add_sums([frame]))
        result = PartResult(
            values=values[pairs.row], sums={"genes": sums[-1]}, n_passes=number, n_without_gene=1
        )
        write_part(tmp_path, number, pairs, result, fingerprint="this run")
    return parts, tmp_path, values, sums, requests


def files(parts, folder, readout=""):
    return [part_path(folder, number, readout) for number in range(len(parts))]


def test_values_come_back_in_the_order_of_the_requests(written, tmp_path):
    parts, folder, values, _, requests = written
    assert len(parts) > 5
    table = PairTable.gather(files(parts, folder), parts, tmp_path / "values", fingerprint="this run")
    assert (table.n_passes, table.n_without_gene) == (sum(range(len(parts))), len(parts))
    np.testing.assert_array_equal(table.read(range(len(requests))), values)
    some = np.concatenate([np.arange(parts.offsets[n], parts.offsets[n + 1]) for n in (4, 0, 2)])
    np.testing.assert_array_equal(table.read([4, 0, 2]), values[some])
    assert table.read([]).shape == (0, 2)


@pytest.mark.parametrize("most_rows", [1, 7, 1000])
def test_sums_of_slices_are_the_sums_of_all(written, most_rows):
    parts, folder, _, sums, requests = written
    slices = list(
        summed_slices(
            files(parts, folder, "genes"), len(requests), fingerprint="this run", most_rows=most_rows
        )
    )
    assert (len(slices) == 1) == (most_rows == 1000)
    pd.testing.assert_frame_equal(pd.concat(slices, ignore_index=True), add_sums(sums), check_exact=True)


def test_parts_of_other_runs_and_damaged_ones_are_refused(written, tmp_path):
    parts, folder, _, _, _ = written
    with pytest.raises(
        ValueError, match=r"00000\.parquet .* is part of another run \(this run, not another\)"
    ):
        PairTable.gather(files(parts, folder), parts, tmp_path / "values", fingerprint="another")
    swapped = files(parts, folder)
    swapped[:2] = swapped[1::-1]
    with pytest.raises(ValueError, match=r"00001\.parquet .* holds other cells or genes than part 0"):
        PairTable.gather(swapped, parts, tmp_path / "values", fingerprint="this run")
    path = part_path(folder, 3)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"00003\.parquet in .* is damaged"):
        require_part(path, "this run")
    sums = files(parts, folder, "genes")
    with pytest.raises(ValueError, match="another run"):
        next(summed_slices(sums, 6, fingerprint="another"))


def test_nothing_is_left_of_a_part_that_is_not_done(written, tmp_path, monkeypatch):
    parts, folder, _, _, _ = written
    import pyarrow.parquet as pq

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", interrupted)
    before = sorted(folder.iterdir())
    pairs = parts.pairs(0)
    with pytest.raises(KeyboardInterrupt):
        write_part(folder, 99, pairs, PartResult(values=np.zeros((len(pairs.row), 2))), fingerprint="x")
    assert sorted(folder.iterdir()) == before
