"""``evaluate model`` as a user calls it: one suite's tasks, what is printed, and calls that make no sense."""

from __future__ import annotations

import json

from geneformer_grn.workflows.suite_bench import suite_files


def test_single_tasks_of_the_suite_are_printed_and_written(
    invoke, tiny_checkpoint, tiny_adata, tiny_h5ad, tmp_path
):
    path = tmp_path / "data" / suite_files()["mouse_pancreas"].path
    path.parent.mkdir(parents=True)
    tiny_adata.write_h5ad(path)
    out = tmp_path / "results.json"
    answer = invoke(
        "evaluate", "model", tiny_checkpoint, "--cells", tiny_h5ad, "--suite", "standard", "--data",
        tmp_path / "data", "--only", "robustness: species, robustness: donor", "--max-cells", 5, "--out", out,
        "--device", "cpu", "--quiet",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    rows = json.loads(out.read_text())["suite"]["rows"]
    assert [(row["task"], "not_run" in row) for row in rows] == [
        ("robustness: donor", True),
        ("robustness: species", False),
    ]
    assert (
        f"| robustness: species | mouse pancreas | {rows[1]['measure']} | {rows[1]['model']:.3f} |"
        in answer.out
    )
    assert "is not in the folder of data" in answer.out
    assert "Of 1 rows" in answer.out


def test_calls_that_make_no_sense(invoke, tiny_checkpoint, tiny_h5ad, tmp_path):
    start = ("evaluate", "model", tiny_checkpoint, "--cells", tiny_h5ad, "--max-cells", 5, "--device", "cpu")
    for more, words in (
        (("--suite", "long"), "choose from standard"),
        (("--only", "masked"), "belong to the suite standard"),
        (("--data", tmp_path), "is for the suite standard"),
        (("--suite", "standard", "--data", tmp_path / "none"), "no folder of data"),
        (("--suite", "standard", "--only", "flight"), "no task begins with 'flight'"),
    ):
        answer = invoke(*start, *more, "--out", tmp_path / "results.json")
        assert answer.code == 2, more
        assert words in answer.err
    assert not (tmp_path / "results.json").exists()
