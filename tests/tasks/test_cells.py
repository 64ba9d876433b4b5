"""Laws of the small caches."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sdxl_core.disk import DiskFullError
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


def test_a_full_disk_is_named_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: str, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DiskFullError, match="disk full"):
        DiskCells(tmp_path)[KEY] = b"a value"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


KILLED = """\
import os, signal, sys
from functools import partial
from pathlib import Path
from PIL import Image
from sdxl_core.ahead import Behind
from sdxl_core.picture_files import png_bytes
from tasks.cells import DiskCells

replace, times = os.replace, []
def killed(source, target):
    times.append(source)
    if len(times) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = killed
cells = DiskCells(Path(sys.argv[1]))
def write(number):
    cells[f"{number:064x}"] = png_bytes(Image.new("RGB", (64, 64), (number, 0, 0)), {})
with Behind(4) as behind:
    for number in range(10):
        behind.add(partial(write, number))
"""


def test_a_killed_process_leaves_whole_pictures_or_none(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, check=False)
    assert run.returncode == -signal.SIGKILL, run.stderr
    cells = DiskCells(tmp_path)
    assert sorted(cells) == [f"{number:064x}" for number in range(2)]
    for number in range(2):
        with Image.open(io.BytesIO(cells[f"{number:064x}"])) as picture:
            assert picture.getpixel((63, 63)) == (number, 0, 0)
