import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdxl_core.data.records import Record, read_records, write_records
from sdxl_core.errors import UserError

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
sides = st.integers(1, 10**6)
boxes = st.tuples(*[st.floats(0, 10**6)] * 4)
records = st.builds(
    Record,
    image=words,
    sha256=words,
    width=sides,
    height=sides,
    text=words,
    concept=st.none() | words,
    source=words,
    mask=st.none() | words,
    face_box=st.none() | boxes,
)
SAMPLE = Record("images/0.png", "0", 3, 2, "a\u2028b\n<script>🙂", None, "x.png")


@given(st.lists(records, max_size=4))
def test_records_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, originals: list[Record]) -> None:
    folder = tmp_path_factory.mktemp("records")
    write_records(folder, originals)
    assert read_records(folder) == originals


def test_the_file_has_a_line_per_record_with_the_agreed_names(tmp_path: Path) -> None:
    path = write_records(tmp_path, [SAMPLE, SAMPLE])
    first, second, rest = path.read_text(encoding="utf-8").split("\n")
    assert path.name == "records.jsonl" and rest == "" and first == second
    assert set(json.loads(first)) == {"image", "sha256", "width", "height", "text", "concept", "source"}
    assert Record(**json.loads(first)) == SAMPLE


@pytest.mark.parametrize(
    "change",
    [{"width": 0}, {"height": "4"}, {"text": None}, {"concept": 3}, {"colour": "red"}, {"image": 1}, {"face_box": [1]}],
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    good = json.dumps(asdict(SAMPLE))
    (tmp_path / "records.jsonl").write_text(good + "\n" + json.dumps(asdict(SAMPLE) | change) + "\n")
    with pytest.raises(UserError, match=r"records\.jsonl:2: expected a record with image, sha256"):
        read_records(tmp_path)


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_records(tmp_path)
