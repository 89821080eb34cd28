"""The page of the reproduction, in Markdown, from the JSON under results/reproduction and the author's logs."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os.path import relpath
from pathlib import Path
from typing import Any

from superconv import files
from superconv.errors import UserError
from superconv.reproduction import author, plots
from superconv.reproduction.evidence import Evidence, Result, allowed, retention
from superconv.reproduction.experiment import Arm, Experiment, ExperimentKind
from superconv.reproduction.experiments import LEFT_OUT, experiments
from superconv.reproduction.reproduce import evidence
from superconv.reproduction.scales import PAPER, SCALES, Scale
from superconv.reproduction.store import Store
from superconv.stats import mean_interval

FIGURES = "figures/reproduction"
ORDER = ("holds", "does not hold", "inconclusive", "not run")
NUMBERS: Mapping[ExperimentKind, tuple[str, Callable[[Result], float]]] = {
    "training": ("Final test accuracy", lambda run: run.test),
    "range_test": (
        "Share of the best accuracy above chance that is left over the last third of rates",
        lambda run: retention(run.readings, chance=run.chance),
    ),
    "estimate": ("Median estimate, in units of the rate in use", allowed),
}
"""What a table shows of a run."""


@dataclass(frozen=True)
class Made:
    """What there is of a scale."""

    scale: Scale
    store: Store
    evidence: Evidence
    claims: Sequence[Mapping[str, Any]]

    @property
    def ran(self) -> bool:
        """Whether any of its runs has been made."""
        return any(runs for arms in self.evidence.results.values() for runs in arms.values())


def write_page(results: Path, page: Path) -> Path:
    """Write the page and the figures beside it; the same results give the same page.

    Args:
        results: Folder with a folder of results for each scale that was run.
        page: The Markdown file; figures go to `figures/reproduction` beside it.

    Raises:
        UserError: No scale has results.
    """
    made = [found for scale in SCALES.values() if (found := _made(scale, results / scale.name))]
    if not made:
        raise UserError(f"{results} holds no results: superconv reproduce all makes those of --scale cpu")
    blocks = [_head(made, results, page), _claims(made)]
    for name in experiments(PAPER):
        blocks.append(_section(name, made, page))
    left_out = [f"- {what}: {why}." for what, why in LEFT_OUT.items()]
    blocks.append("\n".join(["## What of the paper is left out", "", *left_out]))
    files.write_text(page, "\n\n".join(blocks) + "\n")
    return page


def marks(made: Sequence[tuple[str, str]]) -> str:
    """The comment by which a test knows what a page was made from: scales and digests of their results."""
    return "<!-- made from " + ", ".join(f"{scale} {digest}" for scale, digest in made) + " -->"


def _made(scale: Scale, folder: Path) -> Made | None:
    store = Store(folder)
    judged = store.claims()
    return None if judged is None else Made(scale, store, evidence(scale, store), judged)


def _head(made: Sequence[Made], results: Path, page: Path) -> str:
    lines = [
        "# Super-Convergence, reproduced",
        "",
        marks([(m.scale.name, m.store.digest) for m in made]),
        "",
        "Smith & Topin's experiments (arXiv 1708.07120), each as one command, drawn over the author's own logs, and a",
        "verdict on each claim. A claim **holds** where the 95 % interval of the difference, seed by seed (Student;",
        "for numbers of updates by draws of means), lies on its side of the bound, does not hold where it lies on the",
        "other, and is inconclusive in between, and always with fewer than three seeds.",
        "",
        "```",
        "superconv reproduce --list",
        *(f"superconv reproduce all --scale {m.scale.name}" for m in made),
        f"superconv reproduce --page {page.as_posix() if not page.is_absolute() else page.name}",
        "```",
        "",
        "| scale | what | runs | training, all runs added up | machine, plan |",
        "|---|---|---|---|---|",
    ]
    for m in made:
        runs = list(m.store.results.values())
        hours = sum(run["numbers"]["seconds"] or 0 for run in runs) / 3600
        machines = "; ".join(sorted({f"{r['numbers']['machine']}, {_plan(r['numbers']['plan'])}" for r in runs})) or "–"
        lines.append(f"| {m.scale.name} | {m.scale.about} | {len(runs)} | {hours:.1f} h | {machines} |")
    return "\n".join([*lines, "", *_scales_words(made)])


def _scales_words(made: Sequence[Made]) -> list[str]:
    small = [m.scale for m in made if not m.scale.exact]
    words = [
        f"At scale {s.name} the main network is the author's ResNet-{s.main_depth} with batches of {s.batch_size}, on "
        f"{_images(s)} images; rates are chosen on {s.held_out:,} training "
        "images held out, and the test split is read once, at the end."
        for s in small
    ]
    words += [s.pilot for s in small if s.pilot]
    if len(small) < len(made):
        words.append(
            "At scale paper everything is as in the author's files, his use of the test split while training included."
        )
    return words


def _plan(plan: Mapping[str, Any]) -> str:
    words = [plan["precision"], "channels-last" if plan["channels_last"] else "channels-first"]
    return ", ".join([*words, *(["compiled"] if plan["compiled"] else [])])


def _claims(made: Sequence[Made]) -> str:
    lines = ["## The claims"]
    for m in made:
        counts = Counter(entry["verdict"] for entry in m.claims)
        words = ", ".join(f"{verdict}: {counts[verdict]}" for verdict in ORDER if counts[verdict])
        if not m.ran:
            lines += [
                "",
                f"Scale {m.scale.name}: {words}. `superconv reproduce all --scale {m.scale.name}` makes the runs.",
            ]
            continue
        lines += ["", f"Scale {m.scale.name}: {words}.", ""]
        lines += ["| claim | paper | author's logs | ours (95 % interval) | verdict |", "|---|---|---|---|---|"]
        for entry in m.claims:
            verdict = f"**{entry['verdict']}**" if entry["ours"] else f"not run: {entry['why']}"
            cells = (
                entry["statement"],
                entry["paper"] or "–",
                entry["author_log"] or "–",
                _ours(entry["ours"]),
                verdict,
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ours(ours: Mapping[str, Any] | None) -> str:
    if ours is None:
        return "–"
    signed = "+" if ours["unit"] == "points" else ""
    numbers = [ours["mean"], ours["low"], ours["high"]]
    mean, *ends = ("" if v is None else f"{v:{signed}.1f}" if signed else f"{v:.2f}" for v in numbers)
    return f"{mean} {ours['unit']}" + (f" ({ends[0]} to {ends[1]})" if all(ends) else "")


def _section(name: str, made: Sequence[Made], page: Path) -> str:
    lines: list[str] = []
    for m in made:
        experiment = experiments(m.scale)[name]
        if not lines:
            lines += [f"## {experiment.title}", "", f"{experiment.figure}. `superconv reproduce {name}`"]
        results = m.evidence.results.get(name, {})
        present = {key: runs for key, runs in results.items() if runs}
        if m.ran and not present:
            reason = m.evidence.reasons[name].rstrip(".")
            lines += ["", f"Scale {m.scale.name}: not run ({reason})."]
        elif present and experiment.note:
            lines += ["", experiment.note]
        shown = {key: arm for key, arm in experiment.arms.items() if key in present or arm.log}
        figure = plots.draw(replace(experiment, arms=shown), present, _cycles(experiment, m.scale))
        if figure is not None and (present or len(made) == 1):
            path = page.parent / FIGURES / f"{m.scale.name}-{name}.png"
            plots.save(figure, path, m.store.digest)
            link = Path(relpath(path, page.parent)).as_posix()
            lines += ["", f"![{experiment.title}, scale {m.scale.name}]({link})"]
        if present:
            lines += ["", *_table(experiment, present)]
    return "\n".join(lines)


def _table(experiment: Experiment, present: plots.Results) -> list[str]:
    heading, number = NUMBERS[experiment.kind]
    lines = [f"{heading}:", "", "| | the author's | ours | seeds |", "|---|---|---|---|"]
    for key, arm in experiment.arms.items():
        runs = present.get(key, {})
        ours = "–"
        if runs:
            mean, low, high = mean_interval([number(run) for run in runs.values()])
            ours = _shown(mean, experiment)
            if low is not None and high is not None:
                ours += f" ({_shown(low, experiment, unit='')} to {_shown(high, experiment, unit='')})"
            diverged = sum(run.stopped == "diverged" for run in runs.values())
            ours += f", {diverged} diverged" if diverged else ""
        lines.append(f"| {arm.name} | {_theirs(arm, experiment)} | {ours} | {len(runs)} |")
    return lines


def _shown(value: float, experiment: Experiment, unit: str = " %") -> str:
    return f"{100 * value:.2f}{unit}" if experiment.kind == "training" else f"{value:.2f}"


def _theirs(arm: Arm, experiment: Experiment) -> str:
    log = author.log(arm.log) if arm.log else None
    if experiment.kind == "range_test":
        value = retention(log.readings) if log else None
    else:
        value = log.final if log else arm.paper
    return "–" if value is None else f"{_shown(value, experiment)} ({arm.log or 'paper'})"


def _images(scale: Scale) -> str:
    headline, rest = f"{scale.headline.images:,}", f"{scale.rest.images:,}"
    return headline if headline == rest else f"{headline} (headline) or {rest}"


def _cycles(experiment: Experiment, scale: Scale) -> dict[str, int]:
    """Updates of one cycle on the images of each arm, by which its curve is laid over the author's."""
    by_images = {length.images: length.cycle for length in (*scale.sizes, scale.headline, scale.rest)}
    specs = {key: arm.specs[0] for key, arm in experiment.arms.items()}
    cycled = [spec.recipe.steps for spec in specs.values() if spec.recipe.schedule in ("one_cycle", "triangular")]
    if len(set(cycled)) == 1:  # a side experiment has shorter ones
        return dict.fromkeys(specs, cycled[0])
    return {key: by_images.get(spec.task.train_samples or 0, scale.headline.cycle) for key, spec in specs.items()}
