"""Reports are made of files; the files here are written by the classes that write them in a run."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_files import comparison, write_run

from superconv import files
from superconv.errors import UserError
from superconv.report.html import write_report
from superconv.report.words import duration, score
from superconv.studies.compare_page import write_comparison


class Parsed(HTMLParser):
    """What a page would load, its ids and what refers to them, and its words."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.words = ""
        self.tags: list[str] = []
        self._skip = False
        self.feed(page.read_text(encoding="utf-8"))
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._skip = tag == "style"
        for name, value in attrs:
            self.ids += [value or ""] if name == "id" else []
            self.references += re.findall(r"url\(#([^)]*)\)", value or "")
            if name in ("href", "xlink:href", "src", "srcset", "data", "action", "poster"):
                if (value or "").startswith("#"):
                    self.references.append((value or "")[1:])
                elif not (value or "").startswith("data:"):
                    self.loads.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        self.words += "" if self._skip else data


def test_a_report_is_one_file_that_loads_nothing(tmp_path: Path):
    page = write_report([write_run(tmp_path / "run")], tmp_path / "run" / "report.html")
    parsed = Parsed(page)
    assert parsed.loads == []
    assert "script" not in parsed.tags
    assert not re.search(r"https?:|@import|url\((?!#)", page.read_text(encoding="utf-8"))
    assert parsed.tags.count("svg") == 5
    assert len(parsed.ids) == len(set(parsed.ids))
    assert set(parsed.references) <= set(parsed.ids)
    assert len(parsed.references) > 100  # the glyphs of the figures


def test_a_report_holds_what_matters(tmp_path: Path):
    run = write_run(tmp_path / "run")
    words = Parsed(write_report([run], run / "report.html")).words
    verdict = json.loads((run / "range_test.json").read_text())["verdict"]
    for expected in (
        "digits, mlp",
        "96.39 %",
        "97.22 %",
        "8.4 s",
        "3.1 s",
        "15,200",
        f"Super-convergence: {verdict['outcome']}",
        verdict["reason"],
        "range test over 150 updates: the plateau ends there",
        "0.00031",  # final_lr, which the recipe leaves to its rule
        "superconv fit digits --model mlp --shift 1",
        "superconv train digits --recipe recipe.yaml --seed 0 --model mlp --shift 1",
        "2.13.0+cpu",
        "The rate rises from 0.031 to 0.31 at update 225 and comes back by update 450",
        "test split, read once",
    ):
        assert expected in words, expected
    names = ["accuracy", "exploration", "loss", "range-test", "schedule"]
    assert sorted(path.stem for path in (run / "figures").glob("*.png")) == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (run / "figures").iterdir())


def test_the_same_files_make_the_same_bytes(tmp_path: Path):
    run = write_run(tmp_path / "run")
    first = write_report([run], tmp_path / "a" / "report.html")
    second = write_report([run], tmp_path / "b" / "report.html")
    assert first.read_bytes() == second.read_bytes()
    for path in (tmp_path / "a" / "figures").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "figures" / path.name).read_bytes()


def test_names_are_text_and_not_html(tmp_path: Path):
    evil = '<script>alert(1)</script> & "co"'
    run = write_run(tmp_path / "a<b> $x$ _$", name=evil, command=f"superconv fit '{evil}'")
    other = write_run(tmp_path / "_other", name=evil)
    for page in (write_report([run], tmp_path / "one.html"), write_report([run, other], tmp_path / "two.html")):
        parsed = Parsed(page)
        assert "script" not in parsed.tags
        assert evil in parsed.words


def test_a_run_without_range_test_says_that_the_rate_was_given(tmp_path: Path):
    run = write_run(tmp_path / "run", swept=False)
    parsed = Parsed(write_report([run], run / "report.html"))
    assert "There was no range test: the largest rate, 0.31, was given." in parsed.words
    assert "Super-convergence:" not in parsed.words
    assert "Search time" not in parsed.words
    assert parsed.tags.count("svg") == 3


def test_an_unfinished_run_shows_how_far_it_came(tmp_path: Path):
    run = write_run(tmp_path / "run", finished=False)
    words = Parsed(write_report([run], run / "report.html")).words
    assert "240 of 500" in words
    assert "not finished: 240 updates so far" in words
    assert "digits, mlp" in words
    assert "superconv train digits --recipe recipe.yaml" in words
    assert "Test accuracy" not in words


def test_a_run_that_has_only_been_searched_shows_its_sweeps(tmp_path: Path):
    run = write_run(tmp_path / "run", finished=False)
    (run / "history.jsonl").unlink()
    assert Parsed(write_report([run], run / "report.html")).tags.count("svg") == 3
    (run / "recipe.yaml").unlink()
    (run / "spec.json").unlink()
    parsed = Parsed(write_report([run], run / "report.html"))
    assert parsed.tags.count("svg") == 2
    assert "Recipe" not in parsed.words


def test_a_diverged_run_says_so(tmp_path: Path):
    scores = {"validation_accuracy": None, "test_accuracy": None}
    run = write_run(tmp_path / "run", stopped="diverged", steps=240, **scores, images_per_second=None)
    rows = (run / "history.jsonl").read_text().splitlines()[:48]
    rows[-1] = json.dumps({"step": 240, "lr": 0.3, "momentum": 0.9, "train_loss": None, "train_accuracy": 0.1})
    (run / "history.jsonl").write_text("\n".join(rows) + "\n")
    words = Parsed(write_report([run], run / "report.html")).words
    assert "diverged at update 240" in words
    assert "240 of 500" in words


@pytest.mark.parametrize(
    ("metric", "pictures", "shown"), [("loss", 4, "0.1402"), ("f1", 5, "0.9639"), ("5 best", 5, "0.9639")]
)
def test_other_metrics(tmp_path: Path, metric: str, pictures: int, shown: str):
    scores = {"test_loss": 0.1402} if metric == "loss" else {}
    run = write_run(tmp_path / "run", metric=metric, **scores)
    parsed = Parsed(write_report([run], run / "report.html"))
    assert parsed.tags.count("svg") == pictures
    assert f"Test {metric}" in parsed.words
    assert shown in parsed.words
    assert set(parsed.references) <= set(parsed.ids)


def test_without_a_test_split_the_validation_score_leads(tmp_path: Path):
    run = write_run(tmp_path / "run", tested=False)
    words = Parsed(write_report([run], run / "report.html")).words
    assert "97.22 %" in words
    assert "There is no test score." in words


def test_several_runs_on_one_page(tmp_path: Path):
    first = write_run(tmp_path / "first")
    second = write_run(tmp_path / "second", max_lr=0.1, seed=7, test_accuracy=0.91234)
    third = write_run(tmp_path / "deeper" / "first", swept=False, finished=False)
    parsed = Parsed(write_report([first, second, third], tmp_path / "comparison.html"))
    assert parsed.loads == []
    assert len(parsed.ids) == len(set(parsed.ids))
    for expected in ("3 runs compared", "96.39 %", "91.23 %", "deeper/first", "240 of 500", "0.01"):
        assert expected in parsed.words, expected
    assert "weight_decay" not in parsed.words  # which is equal in all
    assert not (tmp_path / "figures").exists()


def test_notes_are_on_the_page(tmp_path: Path):
    run = write_run(tmp_path / "run")
    numbers = files.read_json(run / "run.json")
    files.write_json(run / "run.json", {**numbers, "notes": ["the set has no test split: a tenth <of it> is used"]})
    words = Parsed(write_report([run], run / "report.html")).words
    assert "The set has no test split: a tenth <of it> is used." in words


def test_watched_runs_side_by_side_have_no_validation_score(tmp_path: Path):
    runs = [write_run(tmp_path / name) for name in ("first", "second")]
    for run in runs:
        numbers = files.read_json(run / "run.json")
        task = {**numbers.get("task", {}), "watch_test": True}
        files.write_json(run / "run.json", {**numbers, "task": task})
    words = Parsed(write_report(runs, tmp_path / "comparison.html")).words
    assert "test accuracy" in words
    assert "validation accuracy" not in words


def test_the_same_run_twice_is_two_lines(tmp_path: Path):
    run = write_run(tmp_path / "run")
    assert "run (2)" in Parsed(write_report([run, run], tmp_path / "twice.html")).words


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("run.json", "{", "run.json is not JSON"),
        ("run.json", "[1]", "run.json"),
        ("run.json", '{"metric": "accuracy", "test_accuracy": "high"}', "test_accuracy"),
        ("run.json", '{"plan": 3}', "plan"),
        ("recipe.yaml", "steps: [", "recipe.yaml is not YAML"),
        ("recipe.yaml", "steps: 10", "max_lr|batch_size"),
        ("range_test.json", '{"curve": {}}', "verdict is missing"),
        ("range_test.json", '{"curve": {}, "verdict": {}}', "schema"),
        ("history.jsonl", '{"step": 1, "train_loss": "x"}\n{"step": 2}\n', r"history\.jsonl"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str, says: str):
    run = write_run(tmp_path / "run")
    (run / name).write_text(content)
    with pytest.raises(UserError, match=says):
        write_report([run], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_folders_without_a_run_are_refused(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="nothing to report"):
        write_report([tmp_path / "empty"], tmp_path / "report.html")
    with pytest.raises(UserError, match="no folder"):
        write_report([tmp_path / "absent"], tmp_path / "report.html")
    with pytest.raises(UserError, match="no run"):
        write_report([], tmp_path / "report.html")


def test_a_comparison_shows_scores_and_speed_up(tmp_path: Path):
    parsed = Parsed(write_comparison(comparison(), tmp_path / "report.html"))
    assert parsed.loads == []
    assert set(parsed.references) <= set(parsed.ids)
    for expected in (
        "4 times fewer updates than piecewise at 1,600",
        "One cycle of 400 updates reaches piecewise at 1600 (95 % interval of the ratio: 2 to not reached).",
        "88.73 %",  # piecewise at 1,600
        "87.73 % to 89.73 %",
        "58.82 %",  # the mean test score, of which a seed that diverged has none
        "one cycle 0.1, piecewise 0.02",
        "superconv compare mnist --model lenet",
    ):
        assert expected in parsed.words, expected
    assert (tmp_path / "figures" / "comparison.png").exists()


def test_a_comparison_without_speed_up_claims_none(tmp_path: Path):
    words = Parsed(write_comparison(comparison(ratio=None), tmp_path / "report.html")).words
    assert "No one-cycle run reached" in words
    assert "times fewer" not in words
    slower = comparison(ratio=0.5)
    assert "No speed-up over piecewise" in Parsed(write_comparison(slower, tmp_path / "slower.html")).words
    alone = comparison() | {"speed_up": [], "seeds": [0]}
    for rows in alone["schedules"].values():
        rows[0] |= {"low": None, "high": None}
    assert "one seed" in Parsed(write_comparison(alone, tmp_path / "alone.html")).words
    unsure = comparison()
    unsure["speed_up"] = [{**line, "seeds": 1, "low": None, "high": None} for line in unsure["speed_up"]]
    words = Parsed(write_comparison(unsure, tmp_path / "unsure.html")).words
    assert "how sure that is, nobody knows" in words
    assert "not reached" not in words


def test_an_interval_of_accuracies_ends_at_100_percent(tmp_path: Path):
    near = comparison()
    near["schedules"]["piecewise"][0] |= {"low": 0.95, "high": 1.02}
    assert "95.00 % to 100.00 %" in Parsed(write_comparison(near, tmp_path / "report.html")).words


def test_numbers_are_written_as_people_read_them():
    assert [duration(s) for s in (None, 3.04, 59.96, 245.2, 7830.0)] == [
        "–",
        "3.0\u202fs",
        "1\u202fmin 0\u202fs",
        "4\u202fmin 5\u202fs",
        "2\u202fh 10\u202fmin",
    ]
    assert [score("accuracy", 0.97777), score("loss", 0.123456), score("accuracy", None)] == [
        "97.78\u202f%",
        "0.1235",
        "–",
    ]


@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 500])
@pytest.mark.parametrize("kind", ["run", "runs", "comparison"])
def test_a_browser_shows_the_page(tmp_path: Path, kind: str, width: int):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("there is no chromium on this machine")
    page, run = tmp_path / "report.html", write_run(tmp_path / "run")
    if kind == "comparison":
        write_comparison(comparison(), page)
    else:
        write_report([run] if kind == "run" else [run, write_run(tmp_path / "other", seed=1)], page)
    measure = """<script>addEventListener('load', () => { document.title = JSON.stringify({
        loaded: performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:')),
        height: document.body.scrollHeight, overflow: document.documentElement.scrollWidth - innerWidth,
        figures: [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect())}); })</script>"""
    page.write_text(page.read_text(encoding="utf-8") + measure, encoding="utf-8")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--window-size={width},900")
    command = [browser, *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert ":CONSOLE" not in shown.stderr
    title = re.search("<title>(.*?)</title>", shown.stdout)
    assert title is not None
    measured = json.loads(title[1])
    assert measured["loaded"] == []
    assert measured["overflow"] <= 0
    assert measured["height"] > 1000
    assert len(measured["figures"]) == {"run": 5, "runs": 2, "comparison": 1}[kind]
    assert all(box["width"] > 300 and 150 < box["height"] < box["width"] for box in measured["figures"])
