"""What the terminal says of a run: progress beside it, its recipe with reasons, how it ended."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from superconv import files
from superconv.rates.verdict import Verdict
from superconv.recipe import Recipe
from superconv.report.words import score, shown

if TYPE_CHECKING:
    from superconv.search.recipe import Found

console = Console(stderr=True, markup=False, emoji=False, highlight=False)
TOLD = ("schedule", "steps", "batch_size", "max_lr", "momentum", "weight_decay", "dropout")  # even without a reason


def say(text: str, *, whole: bool = True) -> None:
    """Print a line for the user, in process 0 only; `whole` leaves it unbroken, for paths and what reads the output."""
    if files.writes():
        console.print(text, soft_wrap=whole)


def say_notes(notes: Iterable[str]) -> None:
    """Say what the user should know about how the data was read, or the run was made."""
    for note in notes:
        say(f"note: {note}")


def print_verdict(verdict: Verdict, *, judged: str = "") -> None:
    """Print a verdict as a table; `judged` says what it was made from."""
    table = Table(show_header=False, box=None)
    if judged:
        table.add_row("judged", judged)
    table.add_row("super-convergence", verdict.headline)
    if verdict.suggested_lr is not None:
        table.add_row("suggested peak", f"{verdict.suggested_lr:.2g}")
    for name in ("lr_min", "lr_max", "lr_edge"):
        value = getattr(verdict, name)
        table.add_row(name, "none seen" if value is None else f"{value:.3g}")
    table.add_row("why", verdict.reason)
    Console().print(table)


def print_recipe(recipe: Recipe) -> None:
    """Print a recipe with its reasons, in process 0 only."""
    if not files.writes():
        return
    values = {**vars(recipe), **{name: "–" for name in recipe.reasons if not hasattr(recipe, name)}}
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0), highlight=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        if name in recipe.reasons or (name in TOLD and value is not None):
            words, reason = _told(recipe, name, value)
            table.add_row(f"  {name}", words, Text(recipe.reasons.get(name, reason).replace("; ", ";\n")))
    console.print(table)


def _told(recipe: Recipe, name: str, value: Any) -> tuple[str, str]:
    """A value as people write it, and what is said of it where there is no reason."""
    if name == "momentum" and recipe.momentum_schedule():
        return f"{value:g} → {recipe.min_momentum:g}", "at the feet and at the peak of the cycle"
    return (shown(name, value) if isinstance(value, float) else f"{value}"), ""


def print_found(found: "Found") -> None:
    """Say what was found and why, and what the search took."""
    recipe, search, peak = found.recipe, found.search, found.peak
    if search:
        verdict = search.verdict
        say(f"super-convergence: {verdict.headline}. {verdict.reason}", whole=False)
        if search.agreement:
            say(search.agreement.sentence, whole=False)
    if peak:
        say("A sweep passes each rate by; short cycles find the peak of a whole run:", whole=False)
    print_recipe(recipe)
    if search and peak:
        updates = search.updates + peak.updates
        say(f"search: {updates} updates ({updates / recipe.steps:.0%} of the run), {found.seconds:.1f} s")


def print_ending(numbers: dict[str, Any], recipe: Recipe, *, lower: str = "--max-lr") -> None:
    """Say how a run ended.

    Args:
        numbers: Its final numbers.
        recipe: Its recipe.
        lower: Place where its peak is changed, for a run that diverged.
    """
    peak = recipe.max_lr
    if numbers["stopped"] == "diverged":
        say(f"the loss became infinite at update {numbers['steps']}, peak {peak:.3g}: try {lower} {peak / 3:.2g}")
    watched = bool(numbers.get("task", {}).get("watch_test"))  # then both splits are one
    for split in ("test",) if watched else ("validation", "test"):
        metric = numbers["metric"]
        value = numbers.get(f"{split}_{metric}")
        if value is not None:
            samples = numbers.get("evaluated", {}).get(split)
            say(f"{split} {metric} {score(metric, value, samples)}" if metric == "accuracy" else f"{split} {value:.5g}")
    say(f"{numbers['steps']} updates in {numbers['seconds']:.1f} s, search {numbers.get('search_seconds', 0):.1f} s")
