from __future__ import annotations

import numpy as np
import pytest

from geneformer_grn.training.splits import (
    SplitRule,
    few_shot,
    given_split,
    make_splits,
    require_learnt,
    require_no_leak,
)
from geneformer_grn.training.supervision import MISSING, Split, Task

DONORS = np.repeat([f"donor{number}" for number in range(8)], 25)


@pytest.fixture
def labels() -> np.ndarray:
    """200 units of 3 classes with shares of about 80, 15 and 5 %, 10 of them without a label."""
    values = np.random.default_rng(3).choice(3, size=200, p=[0.8, 0.15, 0.05])
    values[:10] = MISSING
    return values


def parts(split: Split) -> list[np.ndarray]:
    return [split.train, split.validation, split.test]


@pytest.mark.parametrize(
    ("scheme", "grouped"),
    [("holdout", False), ("kfold", False), ("holdout", True), ("kfold", True), ("leave_one_out", True)],
)
def test_every_labelled_unit_is_in_one_part(labels, scheme, grouped):
    groups = DONORS if grouped else None
    splits = make_splits(labels, SplitRule(scheme=scheme, folds=4, groups_are="donor"), groups=groups)
    assert len(splits) == {"holdout": 1, "kfold": 4, "leave_one_out": 8}[scheme]
    labelled = np.flatnonzero(labels != MISSING)
    for split in splits:
        assert np.array_equal(np.sort(np.concatenate(parts(split))), labelled)
        assert all(np.all(np.diff(part) > 0) for part in parts(split))
        if grouped:
            held = [set(DONORS[part]) for part in parts(split)]
            assert not held[0] & held[1] | held[1] & held[2] | held[0] & held[2]
            assert "no donor is in two parts" in split.rule
    if scheme != "holdout":
        tested = np.concatenate([split.test for split in splits])
        assert np.array_equal(np.sort(tested), labelled), "every unit is scored once"
        chosen_by = np.concatenate([split.validation for split in splits])
        assert np.array_equal(np.sort(chosen_by), labelled)


def test_parts_have_the_shares_of_each_class(labels):
    split = make_splits(labels, SplitRule())[0]
    for label in range(3):
        size = int((labels == label).sum())
        for part, share in zip(parts(split), (0.7, 0.15, 0.15), strict=True):
            assert abs((labels[part] == label).sum() - share * size) <= 1


def test_one_in_a_hundred_reaches_every_part():
    values = np.zeros(300, dtype=np.int64)
    values[[5, 100, 250]] = 1
    split = make_splits(values, SplitRule())[0]
    assert [int(values[part].sum()) for part in parts(split)] == [1, 1, 1]
    alone = values.copy()
    alone[[5, 100]] = 0
    assert values[make_splits(alone, SplitRule())[0].train].max() == 1, "a single unit is learnt from"


def test_numbers_are_stratified_by_size():
    values = np.random.default_rng(0).lognormal(size=400)
    values[3] = np.nan
    split = make_splits(values, SplitRule(), kind="regression")[0]
    assert 3 not in np.concatenate(parts(split))
    means = [np.median(values[part]) for part in parts(split)]
    assert max(means) / min(means) < 1.25


def test_groups_are_balanced_better_than_by_chance():
    """Against the spread of class shares in plain random assignments of donors."""
    generator = np.random.default_rng(5)
    donors = np.repeat(np.arange(12).astype(str), generator.integers(20, 120, 12))
    tilt = generator.uniform(0.05, 0.5, 12)
    values = (generator.uniform(size=len(donors)) < tilt[donors.astype(int)]).astype(np.int64)

    def unevenness(split: Split) -> float:
        return float(np.std([values[part].mean() for part in parts(split)]))

    ours = unevenness(make_splits(values, SplitRule(), groups=donors)[0])
    random = []
    for _ in range(200):
        order = generator.permutation(12)
        held = [np.isin(donors.astype(int), order[:8]), np.isin(donors.astype(int), order[8:10])]
        chosen = [*held, ~(held[0] | held[1])]
        random.append(float(np.std([values[part].mean() for part in chosen])))
    assert ours < np.quantile(random, 0.2)


def test_seeds_and_repeats_differ_and_one_seed_repeats(labels):
    first, again, other = (make_splits(labels, SplitRule(), seed=seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(first.test, again.test)
    assert not np.array_equal(first.test, other.test)
    twice = make_splits(labels, SplitRule(repeats=2))
    assert [split.name for split in twice] == ["repeat 1 of 2", "repeat 2 of 2"]
    assert not np.array_equal(twice[0].test, twice[1].test)
    assert np.array_equal(twice[0].test, first.test)


def test_few_shot_takes_labels_of_each_class_and_grows(labels):
    split = make_splits(labels, SplitRule())[0]
    five = few_shot(split, labels, per_class=5, seed=1)
    assert np.bincount(labels[five.train]).tolist() == [5, 5, 5]
    assert np.bincount(labels[five.validation]).max() <= 5
    assert np.array_equal(five.test, split.test)
    assert set(five.train) <= set(split.train)
    one = few_shot(split, labels, per_class=1, seed=1)
    assert set(one.train) <= set(five.train)
    assert set(five.train) != set(few_shot(split, labels, per_class=5, seed=2).train)
    assert "5 labels a class" in five.rule
    everything = few_shot(split, labels, per_class=10_000, seed=1)
    assert np.array_equal(everything.train, split.train)


@pytest.mark.parametrize(
    ("train", "validation", "test", "message"),
    [
        ([0, 1, 2], [3], [2, 4], "unit"),
        ([0, 1, 1], [3], [4], "twice"),
        ([0, 1], [], [4], "validation part of the split is empty"),
        ([0, 1], [3], [6], "donor"),  # donor a is in train, too
        ([0, 1], [3], [5], "copied cell"),  # a copy of cell 1
    ],
)
def test_leaks_are_refused(train, validation, test, message):
    split = Split(np.array(train), np.array(validation, dtype=np.int64), np.array(test), "by hand")
    donors = np.array(["a", "", "b", "c", "d", "e", "a"])
    copies = np.array([10, 11, 12, 13, 14, 11, 16])
    with pytest.raises(ValueError, match=message):
        require_no_leak(split, groups=donors, groups_are="donor", copies=copies)
    require_no_leak(
        Split(np.array([0, 1, 6]), np.array([2]), np.array([3]), ""), groups=donors, copies=copies
    )


def test_a_class_in_one_donor_only_is_named():
    values = np.zeros(200, dtype=np.int64)
    values[DONORS == "donor2"] = 1
    task = Task("type", "cell", "classification", values, ("common", "lonely"))
    splits = make_splits(values, SplitRule(scheme="leave_one_out", groups_are="donor"), groups=DONORS)
    alone = next(split for split in splits if DONORS[split.test[0]] == "donor2")
    with pytest.raises(ValueError, match=r"'lonely' is in the test part of fold . of 8 and not in train"):
        require_learnt(alone, task, groups_are="donor")
    held_out = make_splits(values, SplitRule(groups_are="donor"), groups=DONORS)[0]
    require_learnt(held_out, task)  # where there is a choice, the class is learnt from


def test_a_column_can_name_the_parts():
    split = given_split(["train", "test", "validation", "none", "train"])
    assert [part.tolist() for part in parts(split)] == [[0, 4], [2], [1]]
    with pytest.raises(ValueError, match=r"no unit for 'validation'; it holds: test, train"):
        given_split(["train", "test"], name="obs column 'part'")


@pytest.mark.parametrize(
    ("rule", "groups", "message"),
    [
        (SplitRule(fractions=(0.8, 0.2, 0.2)), None, "add up to 1"),
        (SplitRule(scheme="kfold", folds=2), None, "at least three"),
        (SplitRule(scheme="kfold", folds=9, groups_are="donor"), DONORS, "8 donors with a label"),
        (SplitRule(groups_are="donor"), np.where(DONORS == "donor1", "", DONORS), "25 of 200.*no donor"),
    ],
)
def test_what_cannot_be_split_is_refused(rule, groups, message):
    with pytest.raises(ValueError, match=message):
        make_splits(np.zeros(200, dtype=np.int64), rule, groups=groups)
