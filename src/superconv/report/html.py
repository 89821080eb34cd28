"""Reports of runs and of comparisons, made from their files alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from superconv.errors import UserError
from superconv.report import comparisons
from superconv.report.balances import balance_page
from superconv.report.page import Page
from superconv.report.run_files import read_run
from superconv.report.run_page import run_page
from superconv.studies.balance import Balance


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Write the report of one run, or of several side by side, as one HTML file that loads nothing.

    For a single run the figures are also written as PNG files into the folder ``figures`` beside the page.

    Args:
        folders: Folders of runs, finished or not.
        out: The page.

    Returns:
        `out`.

    Raises:
        UserError: A folder is absent, holds nothing to report, or has a damaged file.
    """
    if not folders:
        raise UserError("there is no run to report: give the folder of one, such as runs/digits-1")
    runs = [read_run(folder) for folder in folders]
    if len(runs) > 1:
        return comparisons.runs_page(runs).write(out)
    return _with_figures(run_page(runs[0]), out)


def write_comparison(comparison: Mapping[str, Any], out: Path) -> Path:
    """Write the report of `superconv compare` as one HTML file, and its figure as PNG into ``figures`` beside it.

    Args:
        comparison: What `compare.json` holds.
        out: The page.

    Returns:
        `out`.
    """
    return _with_figures(comparisons.comparison_page(comparison), out)


def write_balance(balance: Balance, out: Path, *, command: str | None = None) -> Path:
    """Write the report of `superconv balance`, and its figures as PNG into ``figures`` beside it.

    Args:
        balance: What it found.
        out: The page.
        command: The line that found it.

    Returns:
        `out`.
    """
    return _with_figures(balance_page(balance, command=command), out)


def _with_figures(page: Page, out: Path) -> Path:
    for section in page.sections:
        for picture in section.pictures:
            picture.write_png(out.parent / "figures")
    return page.write(out)
