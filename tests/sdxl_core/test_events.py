"""What a trainer tells, and to whom."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TELL = """
import sys
from pathlib import Path
from sdxl_core.hooks import emit
emit("first")
sys.stdin.read()
for number in range(3):
    emit("more", number=number)
Path(sys.argv[1]).write_text("saved")
"""


@pytest.mark.ci
def test_who_listens_may_go_without_harm(tmp_path: Path) -> None:
    """As after kill -9 of the flow, when the trainer still has to save."""
    reading, writing = os.pipe()
    line = [sys.executable, "-c", TELL, str(tmp_path / "saved")]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    with os.fdopen(reading, "rb") as listening:
        assert listening.readline() == b'{"event": "first"}\n'
    said = process.communicate(timeout=60)[1]
    assert (process.returncode, said) == (0, b"")
    assert (tmp_path / "saved").read_text() == "saved"
