import json
from pathlib import Path

import pytest

from superconv.errors import UserError
from superconv.history import History, read


def test_rows_come_back(tmp_path: Path):
    path = tmp_path / "history.jsonl"
    with History(path) as history:
        history.append({"step": 1, "lr": 0.1, "train_loss": 2.0})
        history.append({"step": 2, "lr": 0.2, "train_loss": float("nan")})
    assert read(path) == [{"step": 1, "lr": 0.1, "train_loss": 2.0}, {"step": 2, "lr": 0.2, "train_loss": None}]


def test_every_row_is_on_disk_before_the_file_is_closed(tmp_path: Path):
    path = tmp_path / "history.jsonl"
    history = History(path)
    history.append({"step": 1})
    assert read(path) == [{"step": 1}]
    history.__exit__(None, None, None)


def test_a_torn_last_line_is_dropped_and_an_earlier_one_refused(tmp_path: Path):
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lr"')
    assert read(path) == [{"step": 1}]
    path.write_text('{"step": 1}\n{"step"\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2"):
        read(path)


def test_a_resume_drops_what_it_does_again(tmp_path: Path):
    path = tmp_path / "history.jsonl"
    path.write_text("".join(json.dumps({"step": n}) + "\n" for n in range(1, 10)) + '{"st')
    with History(path, until=4) as history:
        history.append({"step": 5})
    assert [row["step"] for row in read(path)] == [1, 2, 3, 4, 5]
    with History(path):
        pass
    assert read(path) == []


def test_an_absent_file_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"nothing\.jsonl"):
        read(tmp_path / "nothing.jsonl")
