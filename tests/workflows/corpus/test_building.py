"""A recipe becomes corpora: copies gone from training, no donor on both sides, each cell accounted for."""

import json
import warnings

import anndata as ad
import numpy as np
import pytest

from geneformer_grn.cells.corpora.corpus import Corpus
from geneformer_grn.cells.corpora.identity import file_rows
from geneformer_grn.cells.corpora.leaks import files_in_both
from geneformer_grn.workflows import corpus_build
from geneformer_grn.workflows.corpus_build import build_corpus

APART = '[keep_apart]\nfiles = ["judge/*"]'
VOCABULARY = "[vocabulary]\nmin_cells = 3"


def built(make, folder, text="", **options):
    """Build in `folder`, where the data are; return the card and the rows of each corpus by file."""
    files = options.pop("files", 'cells = ["train/*"]')
    out = options.pop("out", folder / "out")
    card = build_corpus(make.recipe(folder, f"{text}\n{VOCABULARY}", files=files), folder, out, **options)
    rows = {}
    for part in card["parts"]:
        corpus = Corpus.open(out / part)
        assert len(corpus) == card["parts"][part]["n_cells"]
        rows[part] = {
            entry["name"]: sorted(file_rows(corpus, entry["name"]).tolist())
            for entry in corpus.manifest["files"]
        }
    return card, rows


def facts(card, name):
    return next(entry for entry in card["files"] if entry["name"] == name)


def contents(folder):
    """Return every file's bytes below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def planted(make, kind, judged, folder):
    """Write ``train/planted`` of 15 cells of its own and 12 of `judged`; return its name and its own rows."""
    rng = np.random.default_rng(5)
    own = make.study(7, 15)
    copies = judged[rng.permutation(judged.n_obs)[:12]].copy()
    copies.obs_names = [f"copy-{cell}" for cell in range(12)]
    both = ad.concat([own, copies])
    order = rng.permutation(27)
    both = both[order].copy()
    if kind == "gene subset":
        both = both[:, rng.permutation(both.n_vars)[:200]].copy()
    rows = np.flatnonzero(order < 15).tolist()
    if kind == "table of genes by cells":
        (folder / "train").mkdir(exist_ok=True)
        both.to_df().T.to_csv(folder / "train" / "planted.csv.gz")
        return "planted.csv.gz", rows
    both.uns["license"] = "CC0"
    if kind == "zarr store":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the version of zarr that is written
            both.write_zarr(folder / "train" / "planted.zarr")
        return "planted.zarr", rows
    make.write(folder, train_planted=both)
    return "planted.h5ad", rows


@pytest.mark.parametrize(
    "kind",
    [
        "cell subset",
        "gene subset",
        "table of genes by cells",
        pytest.param("zarr store", marks=pytest.mark.slow),
    ],
)
def test_planted_copies_are_left_out(make, tmp_path, kind):
    judged = make.study(1, 30)
    make.write(tmp_path, judge_j=judged, train_a=make.study(2, 25))
    name, own = planted(make, kind, judged, tmp_path)
    about = f'[[files.about]]\nfile = "train/{name}"\nlicence = "CC0"\n'
    card, rows = built(make, tmp_path, f"{about}{APART}")
    assert rows == {"train": {"a.h5ad": list(range(25)), name: own}}
    assert facts(card, name)["left_out"] == {"copy of a cell kept apart": 12}
    assert card["duplicates"]["pairs"] == [{"file": name, "kept_file": "j.h5ad", "n_cells": 12}]


def test_independent_studies_of_one_kind_give_no_pair(make, tmp_path):
    make.write(
        tmp_path,
        judge_j=make.study(1, 40),
        train_a=make.study(2, 40),
        train_b=make.study(3, 40)[:, :200].copy(),
    )
    card, rows = built(make, tmp_path, APART)
    assert card["duplicates"]["pairs"] == []
    assert rows["train"] == {"a.h5ad": list(range(40)), "b.h5ad": list(range(40))}


def test_a_training_copy_loses_and_a_held_out_cell_stays(make, tmp_path):
    held, rest = make.study(1, 10), make.study(2, 20)
    make.write(tmp_path, held_h=held, train_a=ad.concat([rest[:15], held[:4]]), train_b=rest[10:].copy())
    card, rows = built(make, tmp_path, '[held_out]\nfiles = ["held/*"]', include_unlicensed=True)
    assert rows["heldout"] == {"h.h5ad": list(range(10))}
    assert rows["train"]["a.h5ad"] == list(range(15))
    assert rows["train"]["b.h5ad"] == list(range(5, 10))
    assert facts(card, "a.h5ad")["left_out"] == {"copy of a held-out cell": 4}
    assert facts(card, "b.h5ad")["left_out"] == {"copy of another training cell": 5}


def test_a_donor_of_whom_a_copy_is_judged_on_is_left_out_whole(make, tmp_path):
    judged = make.study(1, 10)
    train = make.study(2, 30, donors=("Ann", "Bob", "Cem"))
    counts = train.X.toarray()
    counts[3] = judged.X.toarray()[5]  # one cell of Ann's
    train.X = counts
    other = make.study(3, 8, donors=("Ann", "unknown"))  # Ann again, in another file
    make.write(tmp_path, judge_j=judged, train_a=train, train_b=other)
    card, rows = built(make, tmp_path, APART)
    assert rows["train"] == {"a.h5ad": [row for row in range(30) if row % 3], "b.h5ad": [1, 3, 5, 7]}
    reason = "donor of a cell kept apart or held out"
    assert facts(card, "a.h5ad")["left_out"] == {"copy of a cell kept apart": 1, reason: 9}
    assert facts(card, "b.h5ad")["left_out"] == {reason: 4}
    named = "".join(f'[[files.about]]\nfile = "train/{name}.h5ad"\nstudy = "{name}"\n' for name in "ab")
    assert built(make, tmp_path, named + APART)[1]["train"]["b.h5ad"] == list(range(8))
    assert len(built(make, tmp_path, f"{APART}\nwhole_donors = false")[1]["train"]["a.h5ad"]) == 29


def test_donors_are_held_out_of_every_file_and_medians_are_of_training_cells(make, tmp_path):
    a, b = make.study(1, 30, donors=("Ann", "Bob", "Cem")), make.study(2, 20, donors=("Bob", "Dan"))
    c = make.study(3, 10, donors=("unknown",))
    make.write(tmp_path, train_a=a, train_b=b, train_c=c, held_h=make.study(4, 8, donors=("Eve",)))
    held = '[held_out]\nfiles = ["held/h.h5ad"]\ndonors = ["Bob"]'
    card, rows = built(make, tmp_path, held)
    of = {name: np.flatnonzero(data.obs["donor"] == "Bob").tolist() for name, data in (("a", a), ("b", b))}
    assert rows["heldout"] == {"h.h5ad": list(range(8)), "a.h5ad": of["a"], "b.h5ad": of["b"]}
    trained = [data[[row for row in range(data.n_obs) if row not in of.get(name, [])]]
               for name, data in (("a", a), ("b", b), ("c", c))]  # fmt: skip
    assert sum(map(len, rows["train"].values())) == sum(data.n_obs for data in trained) == 40
    assert card["parts"]["train"]["n_donors"] == 3
    assert card["parts"]["train"]["n_cells_without_donor"] == 10
    assert card["parts"]["heldout"]["n_donors"] == 2
    counts = np.concatenate([data.X.toarray() for data in trained]).astype(np.float64)
    scaled = counts / counts.sum(axis=1, keepdims=True) * 10_000
    vocabulary = Corpus.open(tmp_path / "out" / "train").vocabulary
    order = {gene: place for place, gene in enumerate(make.gene_ids())}
    for gene, median in zip(vocabulary.ensembl_ids[4:], vocabulary.medians[4:], strict=True):
        if gene in order:
            values = scaled[:, order[gene]]
            assert median == pytest.approx(np.median(values[values > 0]), rel=1e-12)
    parts = [Corpus.open(tmp_path / "out" / name) for name in ("train", "heldout")]
    assert files_in_both(*parts) == []  # so pretraining takes them as they are


def test_a_donor_on_both_sides_is_refused_unless_these_are_two_people(make, tmp_path):
    make.write(
        tmp_path, train_a=make.study(1, 20, donors=("P1", "P2")), held_h=make.study(2, 10, donors=("P1",))
    )
    held = '[held_out]\nfiles = ["held/*"]'
    with pytest.raises(ValueError, match=r"donor 'P1' is held out in h.h5ad and trained on in a.h5ad"):
        built(make, tmp_path, held)
    assert not (tmp_path / "out.unfinished").exists()
    studies = "".join(
        f'[[files.about]]\nfile = "{file}"\nstudy = "{file[0]}"\n' for file in ("train/a.h5ad", "held/h.h5ad")
    )
    assert built(make, tmp_path, studies + held)[0]["parts"]["train"]["n_cells"] == 20
    _, rows = built(make, tmp_path, f'{held}\ndonors = ["P1"]')
    assert rows["train"] == {"a.h5ad": list(range(1, 20, 2))}


def test_every_rule_is_counted_under_the_first_that_a_cell_fails(make, tmp_path):
    base = make.study(1, 40)
    counts = np.maximum(base.X.toarray(), 1)
    counts[:, -5:] = 0
    low, n_total = counts.sum(axis=1).min(), counts.sum(axis=1)
    counts[0, 50:] = 0  # few genes
    counts[1, :150] = counts[2, 150:] = 1  # few counts
    counts[1, 150:] = counts[2, :150] = 0
    counts[3:6, -1] = n_total[3:6] // 2  # mitochondrial: a third
    counts[6:10, 0] = n_total[6:10]  # one gene: about half
    counts[10] = 0
    base.X = counts
    base.obs["filter_pass"] = [*[1] * 39, 0]
    rules = "min_genes = 100\nmax_mitochondrial = 0.3\nmax_one_gene = 0.45\n"
    umi = f"[quality.umi]\n{rules}min_counts = {low - 60:g}\n"
    make.write(tmp_path, train_a=base, train_b=make.study(2, 10)[:, :200].copy())
    card, rows = built(make, tmp_path, umi)
    expected = {
        "filtered by the file itself": 1, "no known gene": 1, "few genes": 1, "few counts": 2,
        "mitochondrial counts": 3, "one gene holds too much": 4,
    }  # fmt: skip
    assert facts(card, "a.h5ad")["left_out"] == expected
    assert rows["train"]["a.h5ad"] == list(range(11, 39))
    assert facts(card, "b.h5ad")["untested"] == ["max_mitochondrial"]
    about = '[[files.about]]\nfile = "train/a.h5ad"\nreads = "full-length"\n'
    reads, _ = built(make, tmp_path, f"{about}{umi}[quality.full_length]\n{rules}")
    del expected["few counts"]
    assert facts(reads, "a.h5ad")["left_out"] == expected
    entry = facts(card, "a.h5ad")
    assert sum(entry["left_out"].values()) + entry["n_train"] + entry["n_held_out"] == entry["n_cells_file"]
    manifest = json.loads((tmp_path / "out" / "train" / "manifest.json").read_text())
    assert manifest["n_dropped_copies"] == 0  # what fails a rule is no copy


def test_files_without_a_licence_are_left_out_unless_asked_for(make, tmp_path):
    unstated, none = make.study(2, 10), make.study(3, 10)
    del unstated.uns["license"]
    none.uns["license"] = "repo states no licence; GEO GSE1"
    make.write(tmp_path, train_a=make.study(1, 10), train_b=unstated, train_c=none)
    card, rows = built(make, tmp_path)
    assert list(rows["train"]) == ["a.h5ad"]
    assert card["left_out_for_licence"] == ["b.h5ad", "c.h5ad"]
    assert card["may_be_shipped"]
    card, rows = built(make, tmp_path, include_unlicensed=True)
    assert list(rows["train"]) == ["a.h5ad", "b.h5ad", "c.h5ad"]
    assert not card["may_be_shipped"]
    rows_of = [{"file": "train/b.h5ad", "license": "MIT", "source": "somewhere"}]
    (tmp_path / "list.json").write_text(json.dumps({"files": rows_of}))
    card, _ = built(make, tmp_path, files='cells = ["train/*"]\nmanifest = "list.json"')
    assert card["left_out_for_licence"] == ["c.h5ad"]
    assert (facts(card, "b.h5ad")["licence"], facts(card, "b.h5ad")["source"]) == ("MIT", "generated, seed 2")


TWO_SIDES = '[held_out]\nfiles = ["held/*"]\ndonors = ["Bob"]\n'


@pytest.fixture
def two_sides(make, tmp_path):
    make.write(
        tmp_path,
        train_a=make.study(1, 30, donors=("Ann", "Bob")), train_b=make.study(2, 20), held_h=make.study(3, 10),
        judge_j=make.study(4, 10),
    )  # fmt: skip
    return tmp_path


def test_building_again_elsewhere_gives_the_same_bytes(make, two_sides):
    built(make, two_sides, TWO_SIDES + APART)
    built(make, two_sides, TWO_SIDES + APART, out=two_sides / "deep" / "again")
    first, again = contents(two_sides / "out"), contents(two_sides / "deep" / "again")
    assert first == again
    assert {"data_card.json", "data_card.md", "train/manifest.json", "vocabulary/genes.tsv"} <= set(first)


@pytest.mark.parametrize(
    "step",
    [
        "write_corpus",
        *(
            pytest.param(step, marks=pytest.mark.slow)
            for step in ("build_vocabulary", "split_corpus", "merge_corpora", "data_card")
        ),
    ],
)
def test_an_interrupted_build_goes_on(make, two_sides, monkeypatch, step):
    built(make, two_sides, TWO_SIDES, out=two_sides / "whole")
    calls = {"look_at": 0}
    look = corpus_build.look_at

    def counted(*args, **options):
        calls["look_at"] += 1
        return look(*args, **options)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(corpus_build, "look_at", counted)
    with monkeypatch.context() as patch:
        patch.setattr(corpus_build, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            built(make, two_sides, TWO_SIDES)
    assert not (two_sides / "out").exists()
    built(make, two_sides, TWO_SIDES)
    assert calls["look_at"] == 1  # what was known stays known
    assert contents(two_sides / "out") == contents(two_sides / "whole")
    assert not (two_sides / "out.unfinished").exists()


@pytest.mark.slow
def test_another_recipe_does_not_go_on_with_what_is_there(make, two_sides, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(corpus_build, "data_card", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            built(make, two_sides, TWO_SIDES)
    _, rows = built(make, two_sides, '[held_out]\nfiles = ["held/*"]')
    assert rows["train"]["a.h5ad"] == list(range(30))


def test_something_else_is_not_written_over(make, two_sides):
    (two_sides / "out").mkdir()
    (two_sides / "out" / "thesis.md").write_text("years of work")
    with pytest.raises(FileExistsError, match="is not a built corpus"):
        built(make, two_sides)
    (two_sides / "out.unfinished").mkdir()
    (two_sides / "out.unfinished" / "notes.md").write_text("more")
    (two_sides / "out" / "thesis.md").unlink()
    with pytest.raises(FileExistsError, match="no unfinished build"):
        built(make, two_sides)
