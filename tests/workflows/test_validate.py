"""What ``validate`` finds, against numbers counted here and against what reading the file really does."""

import dataclasses
import gzip

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from geneformer_grn.cells.corpora.shards import CorpusSettings
from geneformer_grn.cells.corpora.tokenizing import write_corpus
from geneformer_grn.cells.counts import ReadSettings, read_counts
from geneformer_grn.genes.table import load_gene_table
from geneformer_grn.workflows import validation_pass
from geneformer_grn.workflows.validate import validate_file
from geneformer_grn.workflows.validation_text import next_commands, screen

LENIENT = ReadSettings(sum_duplicates=True, drop_empty=True)


@pytest.fixture
def adata(tiny_adata):
    """The tiny cells with a gene nobody knows, an empty cell, and a filter."""
    cells = tiny_adata.copy()
    counts = np.hstack([cells.X.toarray(), np.full((cells.n_obs, 1), 3.0, dtype=np.float32)])
    counts[4, :-1] = 0
    var = pd.DataFrame(index=[*cells.var_names, "LOST"])
    cells = anndata.AnnData(sparse.csr_matrix(counts), obs=cells.obs.copy(), var=var)
    cells.obs["filter_pass"] = [0, 0, *[1] * 78]
    return cells


def write(adata, folder, name="cells.h5ad"):
    adata.write_h5ad(folder / name)
    return folder / name


def test_facts_are_what_numpy_counts(adata, tiny_vocabulary, tmp_path):
    found = validate_file(write(adata, tmp_path), tiny_vocabulary)
    read = adata.X.toarray()[2:]
    assert (found.kind, found.matrix, found.layout, found.dtype) == ("h5ad", "X", "csr", "float32")
    assert (found.n_cells, found.n_genes, found.n_stored) == (80, 61, adata.X.nnz)
    assert found.usable
    assert found.values.looks == "raw counts"
    assert found.values.n_looked == found.values.n_nonzero == np.count_nonzero(read)
    assert found.values.seen.maximum == read.max()
    assert found.values.totals == pytest.approx(np.quantile(read.sum(1), [0, 0.25, 0.5, 0.75, 1]))
    lost = read[:, -1].sum() / read.sum()
    assert found.genes["share_counts_lost"] == pytest.approx(lost)
    assert (found.genes["n_matched"], found.genes["n_lost"], found.genes["first_lost"]) == (60, 1, ["LOST"])
    known = np.count_nonzero(read[:, :-1], axis=1)
    assert found.cells.known_genes == pytest.approx(np.quantile(known, [0, 0.25, 0.5, 0.75, 1]))
    assert (found.cells.n_read, found.cells.n_filtered, found.cells.n_empty) == (78, 2, 1)
    assert found.cells.obs == {"cell_type": 2, "filter_pass": 2}
    assert found.needs.known_mb == pytest.approx(known.sum() * 8 / 1e6)


def test_what_is_said_of_losses_is_what_reading_reports(adata, tiny_vocabulary, tmp_path):
    path = write(adata, tmp_path)
    found = validate_file(path, tiny_vocabulary)
    report = read_counts(path, tiny_vocabulary, LENIENT).report
    for name in ("n_matched", "n_lost", "n_summed", "n_ambiguous", "share_counts_lost", "naming"):
        assert found.genes[name] == report[name]
    assert found.cells.n_empty == report["n_dropped_empty"]


def test_everything_wrong_is_said_at_once(adata, tiny_vocabulary, tmp_path):
    adata.X = sparse.csr_matrix(np.log1p(adata.X.toarray() / 7).astype(np.float32))
    adata.var_names = [f"contig{number}" for number in range(61)]
    settings = dataclasses.replace(LENIENT, where="nothing > 3", counts_column="n_umi")
    found = validate_file(write(adata, tmp_path), tiny_vocabulary, settings)
    said = " | ".join(problem.what for problem in found.problems)
    for part in ("--where asks for 'nothing'", "0 of 61 genes match", "no column 'n_umi'", "log-normalised"):
        assert part in said
    assert found.values.n_cells == 78, "cells are looked at although the expression is refused"
    with pytest.raises(ValueError, match="--where asks"):
        read_counts(tmp_path / "cells.h5ad", tiny_vocabulary, settings)


def spoil_layer(adata):
    adata.layers["counts"] = adata.X.copy()
    adata.X = sparse.csr_matrix(np.log1p(adata.X.toarray() / 7).astype(np.float32))


def spoil_raw(adata):
    adata.raw = adata.copy()
    adata.X = adata.X.toarray() - 1.5


def spoil_as_scanpy_does(adata):
    """Logarithms in raw, and scaled ones in X."""
    adata.X = sparse.csr_matrix(np.log1p(adata.X.toarray() / 7).astype(np.float32))
    spoil_raw(adata)


def spoil_nothing_left(adata):
    adata.X = sparse.csr_matrix(np.log1p(adata.X.toarray() / 7).astype(np.float32))


def spoil_duplicates(adata):
    adata.var_names = [adata.var_names[1], *adata.var_names[1:]]


@pytest.mark.parametrize(
    ("spoil", "given", "change"),
    [
        (spoil_layer, {}, {"layer": "counts"}),
        (spoil_layer, {"allow_normalised": True}, {"layer": "counts"}),
        (spoil_raw, {}, {"layer": "raw"}),
        (spoil_as_scanpy_does, {}, {"layer": "raw", "allow_normalised": True}),
        (spoil_nothing_left, {}, {"allow_normalised": True}),
        (spoil_duplicates, {"sum_duplicates": False}, {"sum_duplicates": True}),
        (lambda _: None, {"drop_empty": False}, {"drop_empty": True}),
        (lambda _: None, {"counts_column": "umi"}, {"counts_column": None}),
    ],
)
def test_the_way_out_is_one(adata, tiny_vocabulary, tmp_path, spoil, given, change):
    """The settings that it names are accepted, here and by reading."""
    spoil(adata)
    path = write(adata, tmp_path)
    settings = dataclasses.replace(LENIENT, **given)
    found = validate_file(path, tiny_vocabulary, settings)
    assert found.way_out == dataclasses.replace(settings, **change)
    if not found.usable:
        with pytest.raises(ValueError, match=r".") as refused:
            read_counts(path, tiny_vocabulary, settings)
        assert str(refused.value) in [problem.what for problem in found.problems] or change == {
            "counts_column": None
        }
    assert validate_file(path, tiny_vocabulary, found.way_out).usable
    read_counts(path, tiny_vocabulary, found.way_out)


def test_logarithms_that_only_the_end_shows(adata, tiny_vocabulary, tmp_path, monkeypatch):
    """A sample that misses the fractions leads to a second pass, and to the share of what log1p hid."""
    counts = adata.X.toarray()
    adata.X = sparse.csr_matrix(np.log1p(counts))
    monkeypatch.setattr("geneformer_grn.cells.source.CountSource.sample", lambda *_: np.ones(5, np.float32))
    found = validate_file(write(adata, tmp_path), tiny_vocabulary)
    assert found.values.looks == "log-normalised"
    assert found.genes["share_counts_lost"] == pytest.approx(counts[2:, -1].sum() / counts[2:].sum())
    assert found.values.totals[-1] == pytest.approx(counts[2:].sum(1).max())


def test_a_quick_look_is_a_part(adata, tiny_vocabulary, tmp_path, monkeypatch):
    monkeypatch.setattr(validation_pass, "_QUICK_CELLS", 20)
    path = write(adata, tmp_path)
    found = validate_file(path, tiny_vocabulary, quick=True)
    assert found.values.n_cells == 20
    assert found.cells.n_read == 78
    whole = validate_file(path, tiny_vocabulary)
    assert found.needs.known_mb == pytest.approx(whole.needs.known_mb, rel=0.2)
    assert "a sample of" in screen(found, path)
    assert "all " in screen(whole, path)


def test_reading_makes_no_noise_and_leaves_the_log_as_it_was(adata, tiny_vocabulary, tmp_path, caplog):
    adata.X = sparse.csr_matrix(np.hstack([adata.X.toarray()[:, :-1], np.full((80, 1), 50.0, np.float32)]))
    found = validate_file(write(adata, tmp_path), tiny_vocabulary)
    assert any("% of its counts are in genes" in note.what for note in found.notes)
    assert not caplog.records
    read_counts(tmp_path / "cells.h5ad", tiny_vocabulary, LENIENT)
    assert caplog.records


def test_the_screen_is_one_screen_and_names_no_cell(adata, tiny_vocabulary, tmp_path):
    adata.obs["donor"] = [f"patient{number}" for number in range(80)]
    text = screen(validate_file(write(adata, tmp_path), tiny_vocabulary), tmp_path / "cells.h5ad")
    lines = text.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines[:-3])) <= 100
    assert "donor (80)" in text
    assert "patient" not in text
    assert "cell3" not in text


def test_next_commands_carry_what_is_needed(adata, tiny_vocabulary, tmp_path):
    adata.layers["my counts"] = adata.X
    spoil_duplicates(adata)
    settings = dataclasses.replace(LENIENT, layer="my counts")
    found = validate_file(write(adata, tmp_path, "my cells.h5ad"), tiny_vocabulary, settings)
    run, tokenize = next_commands(found, tmp_path / "my cells.h5ad", model="--model tiny")
    assert run.endswith("--out DIR --model tiny --layer 'my counts' --sum-duplicates --drop-empty")
    assert f"tokenize '{tmp_path}/my cells.h5ad' --out CORPUS --model tiny --layer 'my counts'" in tokenize


# Mouse


@pytest.fixture(scope="module")
def orthologs():
    """Human Ensembl ID -> mouse Ensembl ID, and -> mouse symbol."""
    named = load_gene_table().human_of_mouse
    ids = {human: name for name, human in named.items() if name.startswith("ENSMUSG")}
    return ids, {human: name.capitalize() for name, human in named.items() if not name.startswith("ENSMUSG")}


@pytest.fixture(scope="module")
def human(orthologs, tiny_vocabulary):
    """A vocabulary of 60 genes with orthologs, and 50 cells over them in a shuffled order."""
    genes = sorted(set(orthologs[0]) & set(orthologs[1]))[::200][:60]
    assert len(genes) == 60
    n_special, generator = tiny_vocabulary.n_special, np.random.default_rng(5)
    table = load_gene_table()
    special = list(tiny_vocabulary.ensembl_ids[:n_special])
    vocabulary = dataclasses.replace(
        tiny_vocabulary,
        ensembl_ids=np.array([*special, *genes], dtype=object),
        symbols=np.array([*special, *(table.symbol_of[gene] for gene in genes)], dtype=object),
    )
    counts = sparse.csr_matrix(generator.poisson(1.0, (50, 60)).astype(np.float32))
    names = generator.permutation(np.array(genes, dtype=object))
    return vocabulary, anndata.AnnData(counts, var=pd.DataFrame(index=names.astype(str)))


@pytest.mark.parametrize("naming", [0, 1])
def test_mouse_gives_the_human_tokens_and_reports_the_loss(human, orthologs, naming, tmp_path):
    vocabulary, cells = human
    mouse = anndata.AnnData(
        sparse.hstack([cells.X, np.full((50, 2), 4.0, dtype=np.float32)], format="csr"),
        var=pd.DataFrame(
            index=[orthologs[naming][gene] for gene in cells.var_names]
            + [["ENSMUSG00099999998", "ENSMUSG00099999999"], ["Gm99998", "Rik99999"]][naming]
        ),
    )
    paths = write(cells, tmp_path, "human.h5ad"), write(mouse, tmp_path, "mouse.h5ad")
    settings = dataclasses.replace(LENIENT, species="mouse")
    corpora = [
        write_corpus([path], tmp_path / path.stem, vocabulary, CorpusSettings(read=read))
        for path, read in zip(paths, (LENIENT, settings), strict=True)
    ]
    tokens, mouse_tokens = ([corpus.cell(i).tolist() for i in range(len(corpus))] for corpus in corpora)
    assert len(tokens) == 50
    assert mouse_tokens == tokens
    (entry,) = corpora[1].manifest["files"]
    lost = 400.0 / (cells.X.sum() + 400.0)
    assert (entry["n_matched"], entry["n_lost"], entry["n_without_ortholog"]) == (60, 2, 2)
    assert (entry["species"], entry["share_counts_lost"]) == ("mouse", pytest.approx(lost))
    found = validate_file(paths[1], vocabulary, settings)
    assert found.usable
    assert found.notes == [], "what other ways of reading would warn of is not said of this one"
    assert found.genes["looks_like"] == "mouse"
    assert found.genes["share_counts_lost"] == pytest.approx(lost)
    assert "2 have no one-to-one human ortholog" in screen(found, paths[1]).replace("\n" + " " * 13, " ")
    as_human = validate_file(paths[1], vocabulary, LENIENT)
    assert as_human.way_out == settings
    assert as_human.usable == (naming == 1), "IDs match nothing, symbols match by their spelling"


def test_human_cells_read_as_mouse_are_noted(human, tmp_path):
    vocabulary, cells = human
    path = write(cells, tmp_path)
    found = validate_file(path, vocabulary, dataclasses.replace(LENIENT, species="mouse"))
    assert found.way_out == LENIENT


# Other formats


def test_a_table_is_validated_too(adata, tiny_vocabulary, tmp_path):
    frame = pd.DataFrame(adata.X.toarray().T.astype(int), index=adata.var_names, columns=adata.obs_names)
    (tmp_path / "cells.csv.gz").write_bytes(gzip.compress(frame.to_csv().encode()))
    found = validate_file(tmp_path / "cells.csv.gz", tiny_vocabulary)
    assert found.usable
    assert (found.kind, found.n_stored, found.cells.n_empty) == ("text", None, 1)
    assert found.genes["share_counts_lost"] == pytest.approx(adata.X[:, -1].sum() / adata.X.sum())


# Real files


@pytest.mark.shared
@pytest.mark.slow
def test_every_real_file_is_used_or_refused_for_a_reason(shared_dir, tmp_path):
    """Only the bulk file of log fold changes is refused; all others pass, and tokenise with the same loss."""
    from geneformer_grn.model.folder import read_vocabulary, resolve_checkpoint

    vocabulary = read_vocabulary(resolve_checkpoint("mini"))
    paths = sorted((shared_dir / "data").rglob("*.h5ad"))
    assert len(paths) > 20
    found = {path: validate_file(path, vocabulary) for path in paths}
    (refused,) = (path for path in paths if not found[path].usable)
    assert refused.name.startswith("morphic_bulk")
    assert ["negative values" in problem.what for problem in found[refused].problems] == [True]
    assert found[refused].way_out is None
    usable = [path for path in paths if path != refused]
    corpus = write_corpus(usable, tmp_path / "corpus", vocabulary)
    for path, entry in zip(usable, corpus.manifest["files"], strict=True):
        assert entry["share_counts_lost"] == pytest.approx(found[path].genes["share_counts_lost"])
        assert entry["n_cells"] == found[path].cells.n_read - found[path].cells.n_empty
