"""The page of `superconv compare`: schedules under equal budgets."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from superconv.report.page import Page, Picture, Section, Table
from superconv.report.words import score, words
from superconv.studies.compare_plots import plot_comparison


def write_comparison(comparison: Mapping[str, Any], out: Path) -> Path:
    """Write the report of `superconv compare` as one HTML file, and its figure as PNG into ``figures`` beside it.

    Args:
        comparison: What `compare` returns.
        out: The page.

    Returns:
        `out`.
    """
    return comparison_page(comparison).write(out, figures=True)


def comparison_page(comparison: Mapping[str, Any]) -> Page:
    """Lay out what `superconv compare` found."""
    metric, schedules = str(comparison["metric"]), comparison["schedules"]
    points = {
        name: [(row["steps"], row["mean"], row.get("low"), row.get("high")) for row in rows]
        for name, rows in schedules.items()
    }
    speed_ups = comparison.get("speed_up") or []
    shown = _most_telling(speed_ups)
    seeds = comparison.get("seeds") or []
    count = f"{len(seeds)} seeds" if len(seeds) != 1 else "one seed"
    caption = f"Every point is the end of whole runs of that length, mean over {count}"
    caption += ", with the 95 % interval of the mean." if len(seeds) > 1 else "."
    picture = Picture("comparison", plot_comparison(points, metric=metric, speed_up=shown), caption)
    sections = [Section(title=f"Final {metric} against the length of the run", pictures=[picture])]
    if speed_ups:
        sections.append(_speed_up_section(speed_ups))
    sections.append(_scores_section(metric, schedules))
    if failures := comparison.get("failures"):
        sections.append(_failures_section(failures))
    rates = {k.replace("_", " "): v for k, v in (comparison.get("rates") or {}).items()}
    facts = [
        ("Largest rates", words(rates) if rates else None),
        ("Seeds", words(seeds) if seeds else None),
        ("Machine", comparison.get("machine")),
        ("Execution plan", _without_none(comparison.get("plan"))),
        ("Versions", _without_none(comparison.get("versions"))),
    ]
    known = [(name, str(value)) for name, value in facts if value]
    if known:
        sections.append(Section(title="How it was made", table=Table(known)))
    if comparison.get("command"):
        commands = [("Runs that are finished in its folder are not made again.", str(comparison["command"]))]
        sections.append(Section(title="How to repeat it", commands=commands))
    return Page(
        title="Schedules under equal budgets",
        subtitle=f"{comparison['name']} · {count}",
        badge=_headline(shown, speed_ups),
        sections=sections,
    )


def _scores_section(metric: str, schedules: Mapping[str, Sequence[Mapping[str, Any]]]) -> Section:
    rows = []
    for name, lengths in schedules.items():
        for row in lengths:
            interval = "–"
            if row.get("low") is not None and row.get("high") is not None:
                low, high = max(row["low"], 0.0), min(row["high"], 1.0)  # Student's t reaches beyond
                interval = f"{score(metric, low)} to {score(metric, high)}"
            tests = [value or 0.0 for value in row.get("test") or []]  # one that diverged scores nothing
            test = score(metric, statistics.fmean(tests)) if tests else "–"
            cells = (f"{row['steps']:,}", score(metric, row["mean"]), interval, test)
            rows.append((name.replace("_", " "), *cells))
    headers = ("Schedule", "updates", f"validation {metric}", "95 % interval", f"test {metric}")
    text = ["Rates are chosen and lengths compared on the validation split; the test scores only stand beside."]
    return Section(title="All lengths", text=text, table=Table(rows, headers=headers, numbers=True))


def _failures_section(failures: Sequence[Mapping[str, Any]]) -> Section:
    fields = ("steps", "max_lr", "seed", "attempts", "reason")
    rows = [[f["schedule"].replace("_", " "), *(str(f[field]) for field in fields)] for f in failures]
    headers = ("Schedule", "updates", "largest rate", "seed", "attempts", "reason")
    return Section(title="Runs that failed, and are left out", table=Table(rows, headers=headers))


def _speed_up_section(speed_ups: Sequence[Mapping[str, Any]]) -> Section:
    rows = []
    for line in speed_ups:
        reached = line["one_cycle_steps"]
        known = line["ratio"] is not None
        cells = (
            f"{line['baseline_steps']:,}",
            f"{reached:,}" if reached else "none",
            f"{line['ratio']:.3g}" if known else "–",
        )
        rows.append((line["baseline"].replace("_", " "), *cells, (known and interval_words(line)) or "–"))
    headers = ("Baseline", "its updates", "one cycle's updates", "speed-up", "95 % interval")
    text = [
        "The speed-up is the length of the baseline's run over that of the shortest one-cycle run whose mean final "
        "score reaches it. The interval lets every mean vary by Student's t."
    ]
    return Section(title="Speed-up of one cycle", text=text, table=Table(rows, headers=headers, numbers=True))


def _most_telling(speed_ups: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The longest run of the paper's baseline (of any, if it was not run) that one cycle reaches."""
    reached = [line for line in speed_ups if line["ratio"] is not None]
    return max(reached, key=lambda s: (s["baseline"] == "piecewise", s["baseline_steps"]), default=None)


def _headline(shown: Mapping[str, Any] | None, speed_ups: Sequence[Mapping[str, Any]]) -> tuple[str, str, str] | None:
    if not speed_ups:
        return None
    if shown is None:
        return "bad", "No speed-up", "No one-cycle run reached any run of the other schedules."
    certain = shown["low"] is not None and shown["low"] > 1
    mood = "good" if certain else "open" if shown["ratio"] > 1 else "bad"
    name = shown["baseline"].replace("_", " ")
    word = f"No speed-up over {name} at {shown['baseline_steps']:,} updates"
    if shown["ratio"] > 1:
        word = f"{shown['ratio']:.2g} times fewer updates than {name} at {shown['baseline_steps']:,}"
    reason, interval = str(shown["reason"]), interval_words(shown)
    sure = f"95 % interval of the ratio: {interval}" if interval else "one seed: how sure that is, nobody knows"
    return mood, word, f"{reason[:1].upper()}{reason[1:].rstrip('.')} ({sure})."


def interval_words(speed_up: Mapping[str, Any]) -> str | None:
    """The interval of a speed-up; none of one seed."""
    if speed_up.get("seeds", 2) < 2:
        return None
    low, high = ("not reached" if speed_up[end] is None else f"{speed_up[end]:.2g}" for end in ("low", "high"))
    return f"{low} to {high}"


def _without_none(values: Mapping[str, Any] | None) -> str | None:
    return words({k: v for k, v in values.items() if v is not None}) if values else None
