"""The vocabulary made of count files, against numpy.median on dense matrices; resuming, sharing the work."""

import json
import os
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from geneformer_grn.cells import vocabulary_build, vocabulary_work
from geneformer_grn.cells.reading import ReadSettings
from geneformer_grn.cells.vocabulary_build import VocabularySettings, build_part, build_vocabulary
from geneformer_grn.genes.table import load_gene_table
from geneformer_grn.genes.vocabulary import GeneVocabulary

N_GENES = 40


def random_counts(seed: int, n_cells: int = 50) -> np.ndarray:
    generator = np.random.default_rng(seed)
    counts = generator.poisson(generator.gamma(0.3, 2.0, N_GENES), size=(n_cells, N_GENES))
    counts[:, 0] += 1
    return counts.astype(np.float32)


def brute_force(blocks: list[np.ndarray], n_counts: list[np.ndarray], target_sum: float) -> np.ndarray:
    """Median of the non-zero entries of each column, from the dense matrix."""
    dense = np.concatenate([block.astype(np.float64) for block in blocks])
    scaled = dense / np.concatenate(n_counts)[:, None] * target_sum
    return np.array([np.median(column[column > 0]) if (column > 0).any() else np.nan for column in scaled.T])


def write_file(path: Path, counts: np.ndarray, names: list[str], **uns: str) -> Path:
    cells = anndata.AnnData(
        sparse.csr_matrix(counts),
        obs=pd.DataFrame(index=[f"c{i}" for i in range(len(counts))]),
        var=pd.DataFrame(index=pd.Index(names)),
        uns=uns,
    )
    cells.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def genes() -> list[str]:
    """Real, protein-coding genes with a symbol of their own, ascending."""
    table = load_gene_table()
    coding = [gene for gene, kind in table.biotype_of.items() if kind == "protein_coding"]
    return [gene for gene in coding if table.ensembl_of.get(table.symbol_of[gene].upper()) == gene][:N_GENES]


@pytest.fixture
def two_files(tmp_path, genes) -> tuple[list[Path], list[np.ndarray]]:
    """One file by Ensembl ID, in descending order and with a gene nobody knows, one by symbol."""
    first, second = random_counts(0), random_counts(1, 30)
    stranger = np.full((len(first), 1), 3.0, dtype=np.float32)
    symbols = [load_gene_table().symbol_of[gene] for gene in genes]
    files = [
        write_file(
            tmp_path / "first.h5ad",
            np.hstack([first[:, ::-1], stranger]),
            [*genes[::-1], "stranger"],
            license="CC0",
            source="generated",
        ),
        write_file(tmp_path / "second.h5ad", second, symbols),
    ]
    return files, [first, second]


@pytest.mark.parametrize("min_cells", [1, 10])
def test_vocabulary_equals_brute_force(two_files, genes, min_cells):
    files, blocks = two_files
    vocabulary = build_vocabulary(files, VocabularySettings(min_cells=min_cells))
    totals = [blocks[0].sum(1) + 3.0, blocks[1].sum(1).astype(float)]  # the unknown gene counts
    seen = (np.concatenate(blocks) > 0).sum(axis=0) >= min_cells
    assert 0 < seen.sum() < N_GENES
    assert vocabulary.ensembl_ids[5:].tolist() == list(np.array(genes)[seen])
    np.testing.assert_array_equal(vocabulary.medians[5:], brute_force(blocks, totals, 1e4)[seen])
    table = load_gene_table()
    assert vocabulary.symbols[5:].tolist() == [table.symbol_of[gene] for gene in vocabulary.ensembl_ids[5:]]
    assert vocabulary.is_regulator[5:].tolist() == [
        table.is_regulator(gene) for gene in vocabulary.ensembl_ids[5:]
    ]


def test_a_vocabulary_survives_its_folder(two_files, tmp_path):
    vocabulary = build_vocabulary(two_files[0], VocabularySettings(min_cells=2, max_length=64))
    vocabulary.save(tmp_path / "vocabulary")
    again = GeneVocabulary.load(tmp_path / "vocabulary")
    assert again.fingerprint == vocabulary.fingerprint
    assert (again.setting, again.max_length) == ("default", 64)


def test_provenance_names_files_and_licences_but_no_folder(two_files, tmp_path):
    facts = build_vocabulary(two_files[0], VocabularySettings(min_cells=2)).provenance
    assert [source["name"] for source in facts["sources"]] == ["first.h5ad", "second.h5ad"]
    assert [source["naming"] for source in facts["sources"]] == ["ensembl", "symbol"]
    assert facts["licences"] == ["CC0", "not stated"]
    assert (facts["n_cells"], facts["min_cells"]) == (80, 2)
    assert str(tmp_path) not in str(facts)


def test_many_genes_are_read_in_parts(two_files, monkeypatch):
    whole = build_vocabulary(two_files[0], VocabularySettings(min_cells=2, max_genes=10))
    monkeypatch.setattr(vocabulary_work, "_MOST_COLUMNS", 7)
    monkeypatch.setattr(vocabulary_build, "_MOST_TOKENS", 20)
    parts = build_vocabulary(two_files[0], VocabularySettings(min_cells=2, max_genes=10))
    assert parts.fingerprint == whole.fingerprint
    assert parts.provenance == whole.provenance
    with pytest.raises(ValueError, match="holds at most 15; raise --min-cells"):
        build_vocabulary(two_files[0], VocabularySettings(min_cells=2))


def test_max_genes_keeps_those_seen_in_most_cells(two_files, genes):
    files, blocks = two_files
    vocabulary = build_vocabulary(files, VocabularySettings(min_cells=1, max_genes=7, setting="v1"))
    n_cells = (np.concatenate(blocks) > 0).sum(axis=0)
    expected = sorted(range(N_GENES), key=lambda gene: (-n_cells[gene], gene))[:7]
    assert vocabulary.ensembl_ids.tolist() == ["<pad>", "<mask>", *(genes[gene] for gene in sorted(expected))]
    assert vocabulary.max_length == 2048


def test_biotypes(two_files):
    with pytest.raises(ValueError, match="no gene is seen in 1 cells"):
        build_vocabulary(two_files[0], VocabularySettings(min_cells=1, biotypes=("lncRNA",)))
    assert len(build_vocabulary(two_files[0], VocabularySettings(biotypes=("protein_coding",)))) > 5


def test_what_cannot_be_built_is_refused(two_files, tmp_path):
    files, blocks = two_files
    with pytest.raises(ValueError, match="at least one"):
        build_vocabulary([])
    with pytest.raises(ValueError, match=r"no gene is seen in 1000 cells .*lower --min-cells"):
        build_vocabulary(files, VocabularySettings(min_cells=1000))
    copy = shutil.copy(files[0], tmp_path / "copy.h5ad")
    for most in (0, 10**6):
        with pytest.raises(ValueError, match=r"first\.h5ad has the same content as first\.h5ad"):
            build_vocabulary([files[0], files[0]], most_values=most)
        with pytest.raises(ValueError, match=r"copy\.h5ad has the same content as first\.h5ad"):
            build_vocabulary([files[0], copy], most_values=most)
    mouse = write_file(
        tmp_path / "mouse.h5ad", blocks[0], [f"ENSMUSG{number:011d}" for number in range(N_GENES)]
    )
    with pytest.raises(ValueError, match=r"mouse\.h5ad: 0 of 40 genes .*ENSMUSG00000000000"):
        build_vocabulary([mouse])
    with pytest.raises(ValueError, match="no layer 'raw_counts'"):
        build_vocabulary([files[1]], VocabularySettings(read=ReadSettings(layer="raw_counts")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"setting": "v3"}, "setting 'v3' is unknown"),
        ({"min_cells": 0}, "at least 1"),
        ({"max_genes": 0}, "at least 1"),
        ({"max_length": 3}, "at least 4"),
        ({"target_sum": 0.0}, "positive"),
        ({"biotypes": ("protein",)}, r"unknown biotype\(s\) protein; known are .*protein_coding"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        VocabularySettings(**settings)


@pytest.mark.parametrize("min_cells", [1, 10])
@pytest.mark.parametrize("most_values", [0, 40])
def test_several_passes_give_the_same_bits(two_files, min_cells, most_values):
    settings = VocabularySettings(min_cells=min_cells)
    once = build_vocabulary(two_files[0], settings)
    often = build_vocabulary(two_files[0], settings, most_values=most_values)
    assert often.fingerprint == once.fingerprint
    assert often.provenance == once.provenance


class KilledError(Exception):
    pass


@pytest.mark.parametrize("most_values", [0, 10**6])
def test_a_build_that_is_killed_goes_on_at_the_same_file(two_files, tmp_path, monkeypatch, most_values):
    settings, work = VocabularySettings(min_cells=2), tmp_path / "work"
    whole = build_vocabulary(two_files[0], settings)
    read = vocabulary_work._tally_file
    seen: list[tuple[int, str]] = []

    def interrupted(path, *arguments):
        attempt[0] += 1
        if attempt[0] % 2 == 0:  # every second file that is read
            raise KilledError
        seen.append((len(list(work.glob("pass-*"))), path.name))
        return read(path, *arguments)

    monkeypatch.setattr(vocabulary_work, "_tally_file", interrupted)
    attempt = [0]
    for _ in range(40):
        try:
            vocabulary = build_vocabulary(two_files[0], settings, work=work, most_values=most_values)
            break
        except KilledError:
            continue
    assert vocabulary.fingerprint == whole.fingerprint
    assert len(seen) == len(set(seen))  # no file was read twice in a pass
    assert len(seen) == 2 * len({number for number, _ in seen})


@pytest.mark.parametrize("n_parts", [1, 2, 3])
def test_machines_share_the_files_of_a_pass(two_files, tmp_path, monkeypatch, n_parts):
    settings, work = VocabularySettings(min_cells=2), tmp_path / "work"
    states: list[dict] = []
    while not (states and states[-1]["finished"]):
        shares = [(index, n_parts) for index in reversed(range(n_parts))]
        states += [
            build_part(two_files[0], settings, work=work, part=share, most_values=0) for share in shares
        ]
        assert len(states) < 40
    assert {state["n_files"] for state in states} == {2}
    assert max(state["pass"] for state in states) > 3
    monkeypatch.setattr(vocabulary_work, "_tally_file", None)  # nothing is read any more
    vocabulary = build_vocabulary(two_files[0], settings, work=work, most_values=0)
    assert vocabulary.fingerprint == build_vocabulary_again(two_files[0], settings, monkeypatch)


def build_vocabulary_again(files, settings, monkeypatch) -> str:
    monkeypatch.undo()
    return build_vocabulary(files, settings).fingerprint


def test_a_work_folder_is_for_one_build_only(two_files, tmp_path):
    files, work = two_files[0], tmp_path / "work"
    build_part(files, VocabularySettings(min_cells=2), work=work, part=(0, 2))
    with pytest.raises(
        ValueError, match=r"work holds an unfinished build with other settings; give the same"
    ):
        build_vocabulary(files, VocabularySettings(min_cells=3), work=work)
    with pytest.raises(ValueError, match="with other files"):
        build_vocabulary(files[:1], VocabularySettings(min_cells=2), work=work)
    for part in ((-1, 2), (2, 2)):
        with pytest.raises(ValueError, match="does not exist; shares are numbered from 0 to 1"):
            build_part(files, VocabularySettings(min_cells=2), work=work, part=part)
    assert str(tmp_path) not in (work / "plan.json").read_text()
    assert json.loads((work / "pass-1" / "00000.json").read_text())["name"] == "first.h5ad"


def change_in_place(path: Path) -> None:
    """Change a file, not its size."""
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))


@pytest.mark.parametrize("most_values", [0, 10**6])
@pytest.mark.parametrize("number", [0, 1])
def test_a_file_that_changed_since_the_plan_is_refused(two_files, tmp_path, number, most_values):
    files, work = two_files[0], tmp_path / "work"
    settings = VocabularySettings(min_cells=2)
    build_part(files, settings, work=work, part=(0, 2), most_values=most_values)
    change_in_place(files[number])
    told = rf"{files[number].name} changed since its work was planned; delete work to start again"
    with pytest.raises(ValueError, match=told):
        build_vocabulary(files, settings, work=work, most_values=most_values)
    with pytest.raises(ValueError, match=told):
        build_part(files, settings, work=work, part=(1, 2), most_values=most_values)
    assert not list(work.glob("*/00001.*"))


def test_a_file_that_changes_while_it_is_read_leaves_no_answer(two_files, tmp_path, monkeypatch):
    files, work = two_files[0], tmp_path / "work"
    read = vocabulary_work._tally_file

    def changing(path, *arguments):
        report = read(path, *arguments)
        change_in_place(path)
        return report

    monkeypatch.setattr(vocabulary_work, "_tally_file", changing)
    with pytest.raises(ValueError, match=r"first\.h5ad changed since its work was planned"):
        build_vocabulary(files, VocabularySettings(min_cells=2), work=work)
    assert not list(work.glob("*/0*"))


def test_repeated_ids_are_summed_with_a_warning_or_refused(tmp_path, genes, caplog):
    counts = random_counts(0)
    summed = counts[:, :-2].copy()
    summed[:, 0] += counts[:, -2:].sum(axis=1)
    expected = brute_force([summed], [counts.sum(axis=1, dtype=np.float64)], 1e4)
    expected = expected[~np.isnan(expected)]
    for names in ([f"{genes[0]}.1", f"{genes[0]}.2"], [genes[0], genes[0]]):
        path = write_file(tmp_path / "twice.h5ad", counts, [f"g{place}" for place in range(N_GENES)])
        cells = anndata.read_h5ad(path)
        cells.var["ensembl_id"] = [*genes[:-2], *names]
        cells.write_h5ad(path)
        vocabulary = build_vocabulary([path], VocabularySettings(min_cells=1))
        np.testing.assert_array_equal(vocabulary.medians[5:], expected)
    assert "twice.h5ad: 2 rows repeat an Ensembl ID" in caplog.text
    with pytest.raises(ValueError, match=f"{genes[0]} occurs 3 times"):
        build_vocabulary([path], VocabularySettings(read=ReadSettings(sum_duplicates=False)))


def test_a_file_may_name_all_genes_of_the_table(tmp_path):
    names = list(load_gene_table().symbol_of)
    generator = np.random.default_rng(0)
    counts = sparse.random(30, len(names), density=0.002, format="csr", dtype=np.float32, rng=generator)
    counts.data = np.ceil(counts.data * 9)
    cells = anndata.AnnData(
        counts, obs=pd.DataFrame(index=[f"c{i}" for i in range(30)]), var=pd.DataFrame(index=names)
    )
    cells.write_h5ad(tmp_path / "all.h5ad")
    dense = counts.toarray().astype(np.float64)
    scaled = dense / dense.sum(axis=1, keepdims=True) * 1e4
    expected = {
        names[gene]: np.median(scaled[scaled[:, gene] > 0, gene])
        for gene in np.flatnonzero((dense > 0).sum(axis=0) >= 2)
    }
    for most in (0, 10**6):
        vocabulary = build_vocabulary(
            [tmp_path / "all.h5ad"], VocabularySettings(min_cells=2), most_values=most
        )
        assert dict(zip(vocabulary.ensembl_ids[5:], vocabulary.medians[5:], strict=True)) == expected


@pytest.mark.shared
def test_medians_of_real_cells(shared_dir):
    path = shared_dir / "data/pretrain/ipsc_tung140.h5ad"
    vocabulary = build_vocabulary([path])
    cells = anndata.read_h5ad(path)
    dense = cells.X.toarray()
    totals = dense.sum(axis=1, dtype=np.float64)
    row_of = {gene: row for row, gene in enumerate(cells.var_names)}
    for token in range(vocabulary.n_special, len(vocabulary), 331):
        column = dense[:, row_of[vocabulary.ensembl_ids[token]]].astype(np.float64) / totals * 10_000
        assert vocabulary.medians[token] == np.median(column[column > 0])
