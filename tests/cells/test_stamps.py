"""The state of a file, its hash against hashlib, and shares as they are written."""

import hashlib
import os
import threading

import pytest

from geneformer_grn.cells.stamps import check_share, parse_share, sha256_of, stamp_of


def test_a_stamp_tells_size_and_time(tmp_path):
    path = tmp_path / "cells"
    path.write_bytes(b"abc")
    os.utime(path, ns=(5, 7))
    assert stamp_of(path) == [3, 7]
    os.utime(path, ns=(5, 8))
    assert stamp_of(path) == [3, 8]


def test_a_folder_is_stamped_and_hashed_by_its_files(tmp_path):
    for name, content, time in (("b/c", b"12", 9), ("a", b"345", 4)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(0, time))
    assert stamp_of(tmp_path) == [5, 9]
    lines = f"{hashlib.sha256(b'345').hexdigest()}  a\n{hashlib.sha256(b'12').hexdigest()}  b/c\n"
    assert sha256_of(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"345").hexdigest()


def test_hashing_is_stopped(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    stop = threading.Event()
    stop.set()
    for path in (tmp_path, tmp_path / "a"):
        with pytest.raises(InterruptedError, match="hashing a was stopped"):
            sha256_of(path, stop=stop)


def test_shares_count_from_0():
    assert [parse_share(text, "--part") for text in ("0/1", "0/2", "1/2")] == [(0, 1), (0, 2), (1, 2)]


@pytest.mark.parametrize("text", ["", "3", "/", "1/", "/2", "-1/2", "a/b", "1/2/3", "0/0", "1.0/2"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(ValueError, match=rf"^--part '{text}' is not I/N, such as 3/100"):
        parse_share(text, "--part")


def test_shares_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="share 2 of 2 does not exist; shares are numbered from 0 to 1"):
        parse_share("2/2", "--part")
    with pytest.raises(ValueError, match="share -1 of 2 does not exist"):
        check_share(-1, 2)
