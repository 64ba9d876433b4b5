"""Laws of the small caches."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.cells import DiskCells

KEY = "ab" * 32


@given(data=st.binary(max_size=2000))
def test_what_goes_in_comes_out(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    root = tmp_path_factory.mktemp("cells")
    DiskCells(root)[KEY] = data
    assert DiskCells(root)[KEY] == data


def test_it_is_a_mapping(tmp_path: Path) -> None:
    cells = DiskCells(tmp_path / "not there yet")
    assert (len(cells), KEY in cells, cells.get(KEY)) == (0, False, None)
    cells[KEY] = b"1"
    cells[KEY] = b"2"
    cells["cd" * 32] = b"3"
    assert dict(cells) == {KEY: b"2", "cd" * 32: b"3"}
    del cells[KEY]
    with pytest.raises(KeyError):
        del cells[KEY]
    assert list(cells) == ["cd" * 32]


@pytest.mark.parametrize("position", [0, 10, -1])
@pytest.mark.parametrize("torn", [False, True])
def test_a_damaged_cell_is_absent(tmp_path: Path, position: int, torn: bool) -> None:
    cells = DiskCells(tmp_path)
    cells[KEY] = b"a value of some length"
    [path] = tmp_path.glob("*/*")
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data[:position]) if torn else bytes(data))
    assert KEY not in cells
    assert not path.exists()
    cells[KEY] = b"again"
    assert cells[KEY] == b"again"


@pytest.mark.parametrize("key", ["", "../../etc/passwd", "ABCDEF" * 10, "ab"])
def test_keys_are_digests(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="hex"):
        DiskCells(tmp_path)[key] = b""
