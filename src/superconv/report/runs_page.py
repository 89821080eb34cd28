"""The page that sets several runs side by side."""

from collections.abc import Mapping, Sequence

from superconv.report.page import Page, Picture, Section, Table
from superconv.report.plots import plot_history
from superconv.report.record import RunRecord
from superconv.report.run_page import recipe_rows
from superconv.report.words import duration, pace, score


def runs_page(runs: Sequence[RunRecord]) -> Page:
    """Lay out several runs: a table of their final numbers, what differs in their recipes, and their curves."""
    named = dict(zip(_labels(runs), runs, strict=True))
    watched = {bool(run.task.get("watch_test")) for run in runs}
    held_out = "held out" if len(watched) > 1 else "test" if True in watched else "validation"
    pictures = []
    for quantity in dict.fromkeys([*(run.metric for run in runs), "loss"]):
        rows = {name: run.rows for name, run in named.items() if run.measured(quantity)}
        if rows:
            axes = plot_history(rows, quantity, held_out=held_out)
            caption = f"{quantity.capitalize()} of {len(rows)} runs against the update: training as running means."
            pictures.append(Picture.of(quantity, axes, caption))
    titles = list(dict.fromkeys(run.title for run in runs))
    sections = [Section(title="Final numbers", table=_final_numbers(named))]
    if differences := _differences(named):
        sections.append(Section(title="What differs in the recipes", table=differences))
    if pictures:
        sections.append(Section(title="While training", pictures=pictures))
    commands = [(name, str(run.numbers["command"])) for name, run in named.items() if run.numbers.get("command")]
    if commands:
        sections.append(Section(title="How to repeat them", commands=commands))
    return Page(title=f"{len(runs)} runs compared", subtitle=" · ".join(titles), sections=sections)


def _labels(runs: Sequence[RunRecord]) -> list[str]:
    """The shortest ends of the folders' paths that tell the runs apart; a folder given twice gets a number."""
    paths = [run.folder.resolve().parts for run in runs]
    depth = 1
    while depth < max(map(len, paths)) and len({p[-depth:] for p in paths}) < len(set(paths)):
        depth += 1
    names = ["/".join(parts[-depth:]) for parts in paths]
    seen = [names[:i].count(name) for i, name in enumerate(names)]
    return [f"{name} ({before + 1})" if before else name for name, before in zip(names, seen, strict=True)]


def _final_numbers(named: Mapping[str, RunRecord]) -> Table:
    metrics = list(dict.fromkeys(run.metric for run in named.values()))
    headers = ["Run", *(f"{split} {metric}" for metric in metrics for split in ("test", "validation"))]
    headers += ["updates", "training", "search", "images/s"]
    rows = []
    for name, run in named.items():
        row = [name]
        for metric in metrics:
            row.append(score(metric, run.number(f"test_{metric}"), run.evaluated("test")))
            watched = run.task.get("watch_test")  # then it is the test split that was read for both
            chosen_on = None if watched else run.number(f"validation_{metric}")
            row.append(score(metric, chosen_on, run.evaluated("validation")))
        done, planned = run.number("steps"), run.recipe.steps if run.recipe else None
        updates = run.updates if done is None else int(done)
        row.append(f"{updates:,}" if planned in (None, updates) else f"{updates:,} of {planned:,}")
        row += [duration(run.number("seconds")), duration(run.number("search_seconds"))]
        row.append(pace(run.number("images_per_second")))
        rows.append(row)
    kept = [i for i in range(len(headers)) if i == 0 or any(row[i] != "–" for row in rows)]
    return Table([[row[i] for i in kept] for row in rows], headers=[headers[i] for i in kept], numbers=True)


def _differences(named: Mapping[str, RunRecord]) -> Table | None:
    settings = [
        {field: value for field, value, _ in recipe_rows(run.recipe)} if run.recipe else {} for run in named.values()
    ]
    for values, run in zip(settings, named.values(), strict=True):
        values["seed"] = "–" if run.seed is None else str(run.seed)
        values |= {name: str(run.task[name]) for name in ("data", "model") if run.task.get(name)}
        if run.sweeps:
            values["verdict"] = run.sweeps.verdict.outcome
    fields = list(dict.fromkeys(field for values in settings for field in values))
    rows = [[field, *(values.get(field, "–") for values in settings)] for field in fields]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    return Table(rows, headers=["Setting", *named], numbers=True) if rows else None
