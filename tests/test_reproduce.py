"""The paper's experiments as data: valid, within their budgets, on the author's rates; and a toy one really made."""

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from superconv import cli
from superconv.errors import Interrupted
from superconv.reproduction import author, claims
from superconv.reproduction import evidence as by
from superconv.reproduction import reproduce as study
from superconv.reproduction.evidence import Evidence, Result
from superconv.reproduction.experiment import identity
from superconv.reproduction.experiments import chosen, experiments
from superconv.reproduction.page import marks, write_page
from superconv.reproduction.reproduce import evidence, finished, reproduce
from superconv.reproduction.scales import CPU, GPU, SCALES, Length, total_minutes
from superconv.reproduction.store import Store
from superconv.runs.jobs import Failure

approx = pytest.approx
ROOT = Path(__file__).parents[1]
TOY = replace(
    CPU,
    data="digits",
    held_out=100,
    batch_size=25,
    headline=Length(images=200, cycle=24, piecewise=48),
    rest=Length(images=100, cycle=20, piecewise=40),
    sizes=(Length(images=200, cycle=24, piecewise=48), Length(images=100, cycle=20, piecewise=40)),
    side=20,
    ranges=(12, 16, 20),
    readings=5,
    seeds=2,
)
PLAN = "fp32,eager"


def every(scale):
    return list({identity(s): s for e in experiments(scale).values() for s in e.runs}.values())


def make(tmp_path, *names, scale=TOY, **options):
    folders = tmp_path / "results" / scale.name, tmp_path / "runs"
    return reproduce(scale, chosen(scale, names).values(), *folders, plan=PLAN, device="cpu", **options)


@pytest.mark.parametrize(
    ("scale", "most", "part"), [(CPU, 240, 30), (GPU, 30, 8)], ids=lambda s: getattr(s, "name", "")
)
def test_budgets_hold_by_the_stated_paces(scale, most, part):
    runs = every(scale)
    assert total_minutes(scale, runs) <= most
    left, parts = runs, []
    while left:  # as --minutes does it
        clock, taken = part, []
        for spec in left:
            if scale.minutes(spec) <= clock:
                clock -= scale.minutes(spec)
                taken.append(spec)
        assert taken, "a run is longer than a part"
        parts.append(total_minutes(scale, taken))
        left = [spec for spec in left if spec not in taken]
    assert max(parts) <= part
    assert len(parts) <= most / part + 1


@pytest.mark.parametrize("scale", SCALES.values(), ids=lambda s: s.name)
def test_claims_are_about_arms_that_exist(scale):
    """With a result for every run, each claim is decided, or says why it cannot be at this scale."""
    result = replace(results(0)[0], estimates=[{"plain": 2.0, "lr": 0.1}], max_lr=3.0)
    made = experiments(scale).items()
    table = {name: {key: dict.fromkeys(range(3), result) for key in e.arms} for name, e in made}
    judged = claims.judge(scale, Evidence(table, {}))
    excused = {"cpu": {"densenet", "imagenet-resnet50", "imagenet-inception"}, "paper": set()}
    excused["gpu"] = excused["cpu"]
    assert {c["claim"] for c in judged if c["verdict"] == "not run"} == excused[scale.name]
    assert len({c["claim"] for c in judged}) == len(judged)


ROWS = [{"step": i, "lr": i / 10, "train_accuracy": 0.9, "validation_accuracy": 0.5} for i in range(31)]


@pytest.mark.parametrize(
    ("values", "above", "verdict"),
    [
        ((3.0, 3.2, 2.9), 0.0, "holds"),
        ((3.0, 3.2, 2.9), 5.0, "does not hold"),
        ((1.0, -0.5, 0.2), 0.0, "inconclusive"),
        ((3.0, 3.0), 0.0, "inconclusive"),
        ((3.0,), 0.0, "inconclusive"),
    ],
)
def test_verdicts(values, above, verdict):
    table = {"e": {"a": results(*values), "b": results(*[0.0] * len(values))}}
    measured = by.difference(("e", "a"), ("e", "b"))(Evidence(table, {}))
    assert measured.values == approx(values)
    assert by.decide(measured, above)[0] == verdict


def results(*points, **fields):
    common = {"validation": 0.5, "chance": 0.1, "stopped": None, "rows": ROWS, **fields}
    return {seed: Result(test=0.5 + value / 100, **common) for seed, value in enumerate(points)}


def test_measures_are_paired_by_seed_and_say_what_is_missing():
    noisy = {"a": results(1, 11, 21), "b": results(0, 10, 20), "c": results(5)}
    evidence = Evidence({"e": noisy}, {"e": "the data are absent"})
    a, b = ("e", "a"), ("e", "b")
    paired = by.difference(a, b)(evidence)
    assert (paired.mean, paired.low, paired.high) == (approx(1), approx(1), approx(1))
    assert by.difference(a, ("e", "c"))(evidence).values == approx((-4,))  # the seed that both have
    assert by.over_best(a, [b, ("e", "c")])(
        Evidence({"e": {**noisy, "c": results(5, 6, 7, validation=0.6)}}, {})
    ).mean == approx(5)
    with pytest.raises(by.NotRunError, match="data are absent"):
        by.difference(a, ("e", "none"))(evidence)
    saved = by.updates_saved({100: a, 200: ("e", "c")}, (400, b))(evidence)
    assert (saved.mean, saved.values, saved.low) == (4, (4,), None)  # one seed in common has no interval


def test_a_flat_range_test_is_retained_and_a_diverged_one_is_not():
    flat = [(i / 10, 0.1 + 0.6 * min(1, i / 5)) for i in range(31)]
    fallen = [(rate, value if rate < 1 else 0.1) for rate, value in flat]
    assert by.retention(flat) == approx(1)
    assert by.retention(fallen) == approx(0, abs=1e-9)
    stopped = Result(test=0.1, validation=0.1, chance=0.1, stopped="diverged", rows=ROWS[:6], max_lr=3.0)
    assert by.retention(stopped.readings) == approx(0)
    assert [rate for rate, _ in stopped.readings] == approx(
        [0, 0.1, 0.2, 0.3, 0.4, *(i / 12 for i in range(6, 37))], abs=0.05
    )
    table = {"e": {"fell": {0: stopped}, "flat": results(0, max_lr=3.0)}}
    lower = by.between(("e", "fell"), ("e", "flat"), 0.2, 1.0)(Evidence(table, {}))
    assert -40 < lower.mean < -20  # half of it was never reached, and counts as chance
    kept, lost = (by.retention(author.log(name).readings) for name in claims.FLAT_AND_BOTTLENECK)
    assert kept > 0.8
    assert lost < 0.3


def test_a_toy_reproduction_is_made_once_goes_on_after_a_kill_and_gets_its_page(tmp_path, monkeypatch):
    monkeypatch.setitem(SCALES, "cpu", TOY)
    seen = []
    stopping = iter([0, 0, 1])

    def killed(spec, outcome):
        seen.append(identity(spec))
        if next(stopping):
            raise Interrupted("killed")

    with pytest.raises(Interrupted):
        make(tmp_path, "table1", report=killed)
    store = Store(tmp_path / "results" / "cpu")
    assert finished(experiments(TOY)["table1"], store) == 3
    left = make(tmp_path, "fig1a", "table1", "fig2b", "fig5", report=lambda spec, _: seen.append(identity(spec)))
    assert not left
    asked = chosen(TOY, ("fig1a", "table1", "fig2b", "fig5")).values()
    assert len(seen) == len(set(seen)) == len({identity(spec) for one in asked for spec in one.runs})
    make(tmp_path, "table1", report=lambda *_: pytest.fail("made twice"))
    store = Store(tmp_path / "results" / "cpu")

    entries = {entry["claim"]: entry for entry in store.claims()}
    gap = entries["gain-grows-as-images-shrink"]
    assert gap["verdict"] != "not run"
    assert len(gap["ours"]["values"]) == 2
    assert entries["wide"]["verdict"] == "not run"
    assert "reproduce wide" in entries["wide"]["why"]
    found = evidence(TOY, store).results
    assert len(found["fig2b"]["range16"][0].readings) >= 5
    assert {"step", "lr", "plain", "plain_with_buffers"} <= found["fig5"]["cycle"][0].estimates[-1].keys()

    page = write_page(tmp_path / "results", tmp_path / "docs" / "reproduction.md")
    assert_fresh(page, {"cpu": store})
    store.write_claims([])
    with pytest.raises(AssertionError):
        assert_fresh(page, {"cpu": store})


def assert_fresh(page: Path, stores: dict[str, Store]) -> None:
    """A page and its figures carry the digests of what they were made from."""
    digests = {name: store.digest for name, store in stores.items()}
    assert marks(list(digests.items())) in page.read_text(encoding="utf-8")
    figures = list((page.parent / "figures" / "reproduction").glob("*.png"))
    assert figures
    for figure in figures:
        assert Image.open(figure).text["Description"] == digests[figure.name.partition("-")[0]], figure


def test_the_committed_page_is_made_from_the_committed_results():
    page, results = ROOT / "docs" / "reproduction.md", ROOT / "results" / "reproduction"
    stores = {n: Store(results / n) for n in SCALES if Store(results / n).claims() is not None}
    assert "cpu" in stores
    assert_fresh(page, stores)
    for link in re.findall(r"!\[.*?\]\((.*?)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link
    for name, store in stores.items():
        judged = claims.judge(SCALES[name], evidence(SCALES[name], store))
        assert store.claims() == json.loads(json.dumps(judged)), f"superconv reproduce {name}"


KILLED = """
import sys
from dataclasses import replace
from pathlib import Path
from superconv.reproduction.experiments import chosen
from superconv.reproduction.scales import CPU, Length
from superconv.reproduction.reproduce import reproduce

length = Length(images=200, cycle=90, piecewise=90)
scale = replace(CPU, data="digits", held_out=100, batch_size=25, headline=length, seeds=1)
asked = {"fig1a": chosen(scale, ("fig1a",))["fig1a"]}.values()
out = Path(sys.argv[1])
reproduce(scale, asked, out / "results", out / "runs", plan="fp32,eager,threads=1", device="cpu")
"""


@pytest.mark.slow
def test_what_is_killed_in_a_run_is_finished_by_the_same_command(tmp_path):
    """As by `kill -9` inside a run; the results are those of an unbroken reproduction."""

    def command(out):
        return [sys.executable, "-c", KILLED, str(tmp_path / out)]

    subprocess.run(command("whole"), check=True, capture_output=True)
    process = subprocess.Popen(command("cut"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(path.read_text().count("\n") > 10 for path in (tmp_path / "cut").rglob("history.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.002)
    process.kill()
    process.wait()
    subprocess.run(command("cut"), check=True, capture_output=True)
    whole, cut = (Store(tmp_path / name / "results") for name in ("whole", "cut"))
    assert whole.results.keys() == cut.results.keys() != set()
    for name, first in whole.results.items():
        second = cut.results[name]
        assert first["numbers"]["test_accuracy"] == second["numbers"]["test_accuracy"]
        assert first["rows"] == second["rows"]


def test_seeds_more_or_fewer_are_judged_together(tmp_path):
    one = replace(TOY, seeds=1)
    make(tmp_path, "fig1a", scale=one)
    make(tmp_path, "fig1a", scale=replace(TOY, seeds=3))
    make(tmp_path, "fig1a", scale=one)
    entries = {e["claim"]: e for e in Store(tmp_path / "results" / "cpu").claims()}
    assert len(entries["one-cycle-is-better"]["ours"]["values"]) == 3


def test_candidates_are_chosen_by_what_was_held_out_then_made_for_all_seeds(tmp_path):
    make(tmp_path, "baseline")
    store = Store(tmp_path / "results" / "cpu")
    cosine = experiments(TOY)["baseline"].arms["cosine"]
    best = study.best_of(cosine, store)
    tried = [store.read(spec).validation for spec in cosine.specs]
    assert best is not None
    assert tried[cosine.specs.index(best)] == max(tried)
    assert [store.has(replace(spec, seed=1)) for spec in cosine.specs] == [spec == best for spec in cosine.specs]


def test_what_fails_is_said_and_tried_again(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(study, "run_all", partial(fail, reason="the data are absent", tried=tried))
    make(tmp_path, "cifar100")
    assert len(tried) == len({identity(spec) for spec in tried}) > 0  # by the next command, not by this one
    folder = tmp_path / "results" / "cpu"
    entry = next(e for e in Store(folder).claims() if e["claim"] == "cifar100")
    assert (entry["verdict"], entry["why"]) == ("not run", "the data are absent")
    assert finished(experiments(TOY)["cifar100"], Store(folder)) == 0


def fail(specs, root, *, executor, report, reason, tried):
    tried += specs
    for spec in specs:
        report(spec, Failure(reason=reason))


def test_minutes_leave_what_does_not_fit(tmp_path):
    slow = replace(TOY, paces={"resnet8-author": 1.0})
    left = make(tmp_path, "fig1a", scale=slow, minutes=0.1)
    assert len(left) == 4
    assert not Store(tmp_path / "results" / "cpu").results


def test_the_list_and_its_errors(tmp_path, capsys):
    assert cli.main(["reproduce", "--list", "--scale", "gpu", "--out", str(tmp_path)]) == 0
    assert "fig1a" in capsys.readouterr().out
    assert cli.main(["reproduce", "fig9z", "--out", str(tmp_path)]) == 2
    assert "there is no experiment 'fig9z'" in capsys.readouterr().err
    assert cli.main(["reproduce"]) == 2
    assert cli.main(["reproduce", "--page", str(tmp_path / "p.md"), "--out", str(tmp_path)]) == 2
    assert "holds no results" in capsys.readouterr().err


def test_the_logs_ship_and_are_small():
    folder = Path(author.__file__).parent / "data"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 300_000
    assert json.dumps(author.log("clr3SS5kFig1a").final) == "0.9244"
