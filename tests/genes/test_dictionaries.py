"""The published dictionaries: read exactly, and nothing but plain values ever comes out of a pickle."""

import codecs
import collections
import copyreg
import operator
import os
import pickle
import pickletools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneformer_grn.genes.dictionaries import import_dictionaries, read_published_pickle
from geneformer_grn.genes.plain_pickle import read_plain_pickle

GENES = ("ENSG00000000003", "ENSG00000019582", "ENSG00000102145")


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def write(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def write_dictionaries(folder, release="gc30M", special=("<pad>", "<mask>"), **changes):
    tokens = {gene: np.int16(token) for token, gene in enumerate((*special, *GENES))}
    content = {
        "token_dictionary": {**tokens, "<pad>": 0},
        "gene_median_dictionary": {gene: np.float64(1.5 + i) for i, gene in enumerate(GENES)}
        | {"ENSG9": 1e-7},
        "ensembl_mapping_dict": {gene: gene for gene in GENES},
        "gene_name_id_dict": {"TSPAN6": GENES[0], "T245": GENES[0], "CD74": GENES[1]},
    }
    for kind, value in (content | changes).items():
        write(folder / f"{kind}_{release}.pkl", value)
    return folder


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_back_whole(tmp_path, protocol):
    value = {"a": 1, "b": [1.5, None, True, ("x", -(2**70))], "c": {"d": {}}, 7: [[], (), False, "é\n"]}
    assert read_published_pickle(write(tmp_path / "plain.pkl", value, protocol)) == value


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.lists(inner).map(tuple),
)


@given(value=PLAIN, protocol=st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_plain_values_are_what_pickle_itself_reads(value, protocol):
    content = pickle.dumps([value, value], protocol=protocol)
    assert read_plain_pickle(content) == pickle.loads(content)  # noqa: S301 - our own bytes


FUZZED = {"a": np.float64(1.5), "b": [np.int16(3), ("x", 2.5)], "c": {"d": None}}


@given(
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
    protocol=st.integers(0, 5),
)
@settings(max_examples=400, deadline=None)
def test_changed_bytes_give_plain_values_or_one_kind_of_error(changes, protocol):
    content = bytearray(pickle.dumps(FUZZED, protocol=protocol))
    for place, byte in changes:
        content[place % len(content)] = byte
    try:
        found = [read_plain_pickle(bytes(content))]
    except (ValueError, LookupError, TypeError):
        return
    for value in found:  # grows as containers open up
        assert type(value) in {str, int, float, bool, type(None), list, dict, tuple}
        if isinstance(value, dict):
            found.extend(value)
        if isinstance(value, list | tuple | dict):
            found.extend(value.values() if isinstance(value, dict) else value)


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_numbers_come_back_exact(tmp_path, protocol):
    values = [
        np.float64(0.1),
        np.float32(0.1),
        np.int16(-7),
        np.uint8(200),
        np.bool_(True),
        np.float64(np.inf),
    ]
    values += [np.frombuffer(np.array([1.25, 7], dtype=">f8").tobytes(), dtype=">f8")[0]]
    loaded = read_published_pickle(write(tmp_path / "numbers.pkl", dict(enumerate(values)), protocol))
    assert list(loaded.values()) == [value.item() for value in values]
    assert {type(value) for value in loaded.values()} == {float, int, bool}


@pytest.mark.parametrize("home", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numbers_of_numpy_1_and_2_are_known(tmp_path, home):
    """The published files name numpy.core, today's NumPy writes numpy._core."""
    content = pickle.dumps({"a": np.float64(2.5)}, protocol=3)
    assert b"numpy._core.multiarray" in content
    path = _written(tmp_path / "old.pkl", content.replace(b"numpy._core.multiarray", home))
    assert read_published_pickle(path) == {"a": 2.5}


MARKER = "geneformer_grn_was_here"
HOSTILE = {
    "os.system": (Call(os.system, f"touch {MARKER}"), r"posix\.system"),
    "eval": (Call(eval, f"open('{MARKER}', 'w')"), r"builtins\.eval"),
    "exec": (Call(exec, f"open('{MARKER}', 'w')"), r"builtins\.exec"),
    "import": (Call(__import__, "os"), r"builtins\.__import__"),
    "getattr chain": (Call(getattr, Call(__import__, "os"), "system"), r"builtins\.getattr"),
    "attrgetter": (Call(operator.attrgetter("system"), "os"), r"operator\.attrgetter"),
    "codecs": (Call(codecs.decode, b"", "utf8"), r"_codecs\.decode"),
    "open": (Call(open, MARKER, "w"), r"io\.open"),
    "object array": (np.array([{}], dtype=object), r"multiarray\._reconstruct"),
    "number array": (np.arange(3), r"multiarray\._reconstruct"),
    "structured": (np.zeros(1, dtype=[("a", "i4")])[0], "type 'V4'"),
    "date": (np.datetime64("2020-01-01"), "type 'M8'"),
    "ordered dict": (collections.OrderedDict(a=1), r"collections\.OrderedDict"),
    "class": (collections.Counter, r"collections\.Counter"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_everything_else_is_refused_by_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    hostile, message = HOSTILE[name]
    with pytest.raises(ValueError, match=rf"hostile\.pkl is not read: .*{message}"):
        read_published_pickle(write(tmp_path / "hostile.pkl", {"a": hostile}))
    assert not (tmp_path / MARKER).exists()


def _written(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "body",
    [
        # numpy.dtype("O") and scalar(dtype("f8"), ...) with what is no number's bytes
        b"cnumpy\ndtype\n(VO8\nI00\nI01\ntR.",
        b"cnumpy._core.multiarray\nscalar\n(I1\nI2\ntR.",
        b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(Vf8\ntRVabc\ntR.",
        b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(Vf8\ntRC\x03abctR.",
        b"cnumpy\ndtype\n(Vf8\ntR(I3\nVx\ntb.",
        b"cnumpy\ndtype\n(Vf8\ntRI5\nb.",
        b"cnumpy\ndtype\n((ltR.",
        b"Pelsewhere\n.",
        b"\x82\x01.",
        b"cgeneformer_grn.genes.dictionaries\n_NumberType.__init__\n.",
    ],
)
def test_forged_numbers_and_references_are_refused(tmp_path, body):
    with pytest.raises(ValueError, match=r"forged\.pkl"):
        read_published_pickle(_written(tmp_path / "forged.pkl", body))


DTYPE = b"cnumpy\ndtype\n"
SCALAR = b"cnumpy._core.multiarray\nscalar\n"
F8 = DTYPE + b"(Vf8\nI00\nI01\ntR"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        # A function or class that was imported can be given attributes by BUILD.
        (SCALAR + b"}Vx\nI1\nsb.", "changes a Name"),
        (SCALAR + b"(N}V__defaults__\n(I1\ntstb.", "changes a Name"),
        (DTYPE + b"(I3\nV<\ntb.", "changes a Name"),
        (b"}}Vx\nI1\nsb.", "changes a dict"),
        # A number type's state may describe fields and shapes.
        (F8 + b"(I3\nV<\n(VO\nI1\ntNNtb.", "byte order"),
        (F8 + b"(I3\n(tNNNtb.", "byte order"),
        # Nothing but numbers may be left over, in whatever container.
        (b"}Vx\n" + DTYPE + b"s.", "not a plain number"),
        (b"}Vx\n" + F8 + b"s.", "not a plain number"),
        (b"}Vx\n" + F8 + b"\x85s.", "not a plain number"),
        (b"}Vx\n](" + F8 + b"\x85es.", "not a plain number"),
        (b"}Vx\nC\x01as.", "holds bytes"),
        (DTYPE + b".", "no plain value"),
        # Calls of what is no function, and constructors with other arguments than NumPy writes.
        (b"(Vf8\ntI1\n\x86R.", "damaged"),
        (b"Vos\n(Vx\ntR.", "calls what is no function"),
        (F8 + b"(tR.", "calls what is no function"),
        (SCALAR + b"]R.", "calls what is no function"),
        (SCALAR + b"(" + F8 + b"C\x08aaaaaaaaI1\ntR.", "not a plain number"),
        (SCALAR + b"(" + F8 + b"VO\ntR.", "not a plain number"),
        (DTYPE + b"(" + F8 + b"tR.", "type NumberType"),
        (b"c_codecs\nencode\n(Vx\nVrot13\ntR.", r"_codecs\.encode"),
        (b"c_codecs\ndecode\n(Vx\nVlatin1\ntR.", r"_codecs\.decode"),
        # Every instruction that can make or find an object otherwise.
        (b"(ios\nsystem\n.", "INST"),
        (b"(cos\nsystem\nVtrue\no.", r"os\.system"),
        (b"(" + DTYPE + b"Vf8\no.", "OBJ"),
        (DTYPE + b")\x81.", "NEWOBJ"),
        (DTYPE + b")}\x92.", "NEWOBJ_EX"),
        (b"Vos\nVsystem\n\x93.", r"os\.system"),
        (b"Vnumpy\nVdtype.char\n\x93.", r"numpy\.dtype\.char"),
        (b"])\x93.", "no text"),
        (b"Pelsewhere\n.", "PERSID"),
        (b"Velsewhere\nQ.", "BINPERSID"),
        (b"\x96\x01\0\0\0\0\0\0\0a.", "BYTEARRAY8"),
        (b"\x97.", "NEXT_BUFFER"),
        (b"C\x01a\x98.", "READONLY_BUFFER"),
        (b"\x8f.", "EMPTY_SET"),
        (b"(\x91.", "FROZENSET"),
        (b"S'text of Python 2'\n.", "STRING"),
        # Keys whose hash is endless, text that no file can hold.
        (b"}" + b")" + b"2\x86" * 80 + b"Ns.", "tuple as a dictionary's key"),
        (b"}VF\\ud800\nI1\ns.", "damaged"),
    ],
)
def test_hostile_instructions_are_refused(tmp_path, body, message):
    with pytest.raises(ValueError, match=rf"hostile\.pkl .*{message}"):
        read_published_pickle(_written(tmp_path / "hostile.pkl", body))


@pytest.mark.parametrize("instruction", [b"\x82\xf0", b"\x83\xf0\0", b"\x84\xf0\0\0\0"])
def test_registered_extensions_are_refused_even_when_cached(tmp_path, instruction):
    copyreg.add_extension("os", "getpid", 240)
    try:
        assert pickle.loads(b"\x82\xf0.") is os.getpid  # noqa: S301 - now cached: no later reader is asked
        with pytest.raises(ValueError, match="instruction EXT"):
            read_published_pickle(_written(tmp_path / "ext.pkl", instruction + b"."))
    finally:
        copyreg.remove_extension("os", "getpid", 240)


@pytest.mark.parametrize(
    "body",
    [
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x3fabc",  # text of 4 EiB
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x3fabc",
        b"X\xff\xff\xff\x7fabc",
        b"B\xff\xff\xff\x7fabc",
        b"\x8b\xff\xff\xff\x7fabc",  # a number of 2 GiB
        b"\x8b\xff\xff\xff\xffabc",
        b"L" + b"9" * 5000 + b"L\n.",
        b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a frame of 8 EiB
    ],
)
def test_sizes_that_a_file_only_claims_are_refused(tmp_path, body):
    with pytest.raises(ValueError, match=r"huge\.pkl"):
        read_published_pickle(_written(tmp_path / "huge.pkl", b"\x80\x04" + body))


def test_a_memo_place_takes_no_more_memory_for_being_far_off(tmp_path):
    path = _written(tmp_path / "far.pkl", b"}r\xff\xff\xff\x7f0j\xff\xff\xff\x7f.")  # place 2^31 - 1
    assert read_published_pickle(path) == {}


def test_a_message_stays_short_whatever_the_file_holds(tmp_path):
    bomb = []
    for _ in range(60):
        bomb = [bomb, bomb]  # 2^60 lists in print, 60 in memory
    for value in (bomb, "x" * 100_000, (bomb,)):
        with pytest.raises(ValueError, match="int values") as caught:
            import_dictionaries(write_dictionaries(tmp_path, token_dictionary={"<pad>": value}), "v1")
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x80\x04", pickle.dumps({"a": "b" * 50})[:-9], b"\x80\xff."]
)
def test_damaged_files_are_refused(tmp_path, content):
    with pytest.raises(ValueError, match=r"x\.pkl is (damaged|not read)"):
        read_published_pickle(_written(tmp_path / "x.pkl", content))


def test_other_files_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_published_pickle(tmp_path / "missing.pkl")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    with pytest.raises(ValueError, match="Git LFS pointer"):
        read_published_pickle(_written(tmp_path / "pointer.pkl", pointer))
    with pytest.raises(ValueError, match="holds a list"):
        read_published_pickle(write(tmp_path / "list.pkl", [1]))


def test_v1_dictionaries_become_a_vocabulary(tmp_path):
    vocabulary = import_dictionaries(write_dictionaries(tmp_path), "v1")
    assert vocabulary.ensembl_ids.tolist() == ["<pad>", "<mask>", *GENES]
    assert vocabulary.symbols.tolist() == ["<pad>", "<mask>", "TSPAN6", "CD74", "GATA1"]
    assert vocabulary.medians.dtype == np.float64
    assert vocabulary.medians[2:].tolist() == [1.5, 2.5, 3.5]
    assert vocabulary.is_regulator.tolist() == [False, False, False, False, True]
    assert (vocabulary.setting, vocabulary.max_length, vocabulary.aliases) == ("v1", 2048, {})
    assert str(tmp_path) not in str(vocabulary.provenance)


def test_v2_keeps_the_aliases_that_lead_to_tokens(tmp_path):
    mapping = {gene: gene for gene in GENES} | {"II": GENES[1], "GONE": "ENSG00000999999"}
    special = ("<pad>", "<mask>", "<cls>", "<eos>")
    folder = write_dictionaries(tmp_path, "gc104M", special, ensembl_mapping_dict=mapping)
    vocabulary = import_dictionaries(folder, "v2")
    assert vocabulary.aliases == {gene: gene for gene in GENES} | {"II": GENES[1]}
    assert vocabulary.max_length == 4096


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_dictionary": {"<pad>": 0, "<mask>": 1, GENES[0]: 3}}, "not the numbers 0 to 2"),
        ({"token_dictionary": {"<mask>": 0, "<pad>": 1, GENES[0]: 2}}, "needs <pad>, <mask>"),
        ({"token_dictionary": {"<pad>": 0, "<mask>": "1"}}, "'<mask>' leads to '1'"),
        ({"token_dictionary": {0: "<pad>"}}, "int values"),
        ({"gene_median_dictionary": {GENES[0]: 1.0}}, f"no positive median for 2 tokens .first: {GENES[1]}"),
        ({"gene_median_dictionary": dict.fromkeys(GENES, 0.0)}, "no positive median for 3"),
        ({"gene_median_dictionary": dict.fromkeys(GENES, float("nan"))}, "no positive median for 3"),
        ({"gene_median_dictionary": dict.fromkeys(GENES, np.float64("inf"))}, "no positive median for 3"),
        ({"gene_median_dictionary": dict.fromkeys(GENES, 2**1100)}, "no positive median for 3"),
        ({"gene_name_id_dict": {"CD74": 5}}, "str values"),
    ],
)
def test_dictionaries_that_do_not_belong_together(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        import_dictionaries(write_dictionaries(tmp_path, **changes), "v1")


def test_missing_files_and_unknown_settings(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        import_dictionaries(tmp_path / "nowhere", "v1")
    write_dictionaries(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"lacks token_dictionary_gc104M\.pkl.*gc30M"):
        import_dictionaries(tmp_path, "v2")
    with pytest.raises(ValueError, match="'default' is not a published one"):
        import_dictionaries(tmp_path, "default")


@pytest.mark.shared
@pytest.mark.parametrize(("setting", "release", "n"), [("v1", "gc30M", 25_426), ("v2", "gc104M", 20_275)])
def test_published_dictionaries_are_read_exactly(golden_dir, setting, release, n):
    folder = golden_dir / "dictionaries"
    vocabulary = import_dictionaries(folder, setting)
    assert len(vocabulary) == n
    # An independent reader: the opcodes of the token pickle name the genes in the order of their tokens.
    raw = (folder / f"token_dictionary_{release}.pkl").read_bytes()
    names = [arg for op, arg, _ in pickletools.genops(raw) if "UNICODE" in op.name]
    genes = [name for name in names if name.startswith("ENSG")]
    assert vocabulary.ensembl_ids[vocabulary.n_special :].tolist() == genes
    assert np.isfinite(vocabulary.medians[vocabulary.n_special :]).all()
    assert (vocabulary.aliases == {}) == (setting == "v1")
