"""Files are known by their content; folders stand for the count files in them."""

import shutil

import h5py
import pytest

from geneformer_grn.cells.formats.detect import find_files, kind_of
from geneformer_grn.cells.opening import open_source


def test_names_do_not_matter(cells, write, tmp_path):
    paths = {
        "h5ad": tmp_path / "a.csv",
        "10x h5": write.tenx_v3(tmp_path / "b.h5ad"),
        "loom": write.loom(tmp_path / "c.h5"),
        "text": write.text(tmp_path / "d.loom"),
        "10x mtx": write.mtx(tmp_path / "e.zarr"),
    }
    cells.write_h5ad(paths["h5ad"])
    for kind, path in paths.items():
        assert kind_of(path) == kind
        with open_source(path) as source:
            assert source.kind == kind
            assert source.name == path.name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"\x00\x01\x02", "no count file; accepted are .h5ad"),
        (b" \n", "no count file"),
        (b"\x1f\x8bnot gzip", "truncated or damaged"),
    ],
)
def test_files_that_are_something_else(content, message, tmp_path):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        kind_of(tmp_path / "a")


def test_hdf5_that_is_something_else(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as handle:
        handle["model_weights/layer"] = 1
    with pytest.raises(ValueError, match=r"neither .h5ad nor 10x nor loom \(a group with \['layer'\]\)"):
        kind_of(tmp_path / "a.h5")


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.h5ad: no such file"):
        open_source(tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match="neither a zarr store nor one with a matrix"):
        open_source(tmp_path)
    with pytest.raises(TypeError, match="not a list"):
        open_source([1, 2])


@pytest.mark.filterwarnings("ignore:Writing zarr v2:UserWarning")
def test_a_folder_stands_for_its_files(cells, write, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    cells.write_h5ad(folder / "b.h5ad")
    cells.write_zarr(folder / "c.zarr")
    write.mtx(folder / "a")
    write.text(folder / "d.tsv.gz", delimiter="\t")
    (folder / "README.txt").write_text("read me")
    (folder / ".hidden.h5ad").write_text("")
    (folder / "notes.md").write_text("")
    (folder / "plots").mkdir()
    wanted = [folder / name for name in ("a", "b.h5ad", "c.zarr", "d.tsv.gz")]
    assert find_files([folder]) == wanted
    assert find_files([folder / "d.tsv.gz", str(folder), folder / "a"]) == [wanted[3], *wanted[:3]]
    assert find_files([folder / "c.zarr"]) == [folder / "c.zarr"]


@pytest.mark.filterwarnings("ignore:Writing zarr v2:UserWarning")
def test_folders_below_are_searched(cells, write, tmp_path):
    folder = tmp_path / "in"
    for name in ("GSE1/GSM1", "GSE1/GSM2", "licensed/deep/deeper", ".snapshots"):
        (folder / name).mkdir(parents=True)
    write.text(folder / "b.csv")
    write.mtx(folder / "GSE1" / "GSM1" / "filtered")
    (folder / "GSE1" / "GSM1" / "filtered" / "more").mkdir()
    write.text(folder / "GSE1" / "GSM1" / "filtered" / "more" / "inside.csv")
    write.text(folder / "GSE1" / "GSM2" / "a.tsv", delimiter="\t")
    cells.write_zarr(folder / "licensed" / "deep" / "c.zarr")
    write.text(folder / "licensed" / "deep" / "c.zarr" / "X" / "inside.csv")
    write.tenx_v3(folder / "licensed" / "deep" / "deeper" / "d.h5")
    write.text(folder / ".snapshots" / "b.csv")
    (folder / "GSE1" / "back").symlink_to(folder)  # would never end
    wanted = [
        "GSE1/GSM1/filtered", "GSE1/GSM2/a.tsv", "b.csv", "licensed/deep/c.zarr",
        "licensed/deep/deeper/d.h5",
    ]  # fmt: skip
    assert find_files([folder]) == [folder / name for name in wanted] == sorted(find_files([folder]))


def test_several_samples_in_one_folder(write, tmp_path):
    write.mtx(tmp_path / "in", prefix="GSM1_")
    assert find_files([tmp_path / "in"]) == [tmp_path / "in"]
    write.mtx(tmp_path / "in", prefix="GSM2_", version=2)
    names = ["GSM1_matrix.mtx.gz", "GSM2_matrix.mtx.gz"]
    assert [path.name for path in find_files([tmp_path / "in"])] == names
    with pytest.raises(ValueError, match=r"holds 2 matrix.mtx files; name one of them: GSM1_matrix.mtx.gz"):
        open_source(tmp_path / "in")
    with open_source(tmp_path / "in" / names[1]) as source:
        assert source.name == names[1]
    shutil.copytree(tmp_path / "in", tmp_path / "outer" / "in")
    assert [path.name for path in find_files([tmp_path / "outer"])] == names


def test_empty_and_missing_folders(tmp_path):
    with pytest.raises(ValueError, match=r"holds no count files; accepted are .h5ad, .zarr"):
        find_files([tmp_path])
    with pytest.raises(FileNotFoundError, match="nowhere: no such file"):
        find_files([tmp_path / "nowhere"])
