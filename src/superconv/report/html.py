"""Reports of runs, made from their files alone."""

from collections.abc import Sequence
from pathlib import Path

from superconv.errors import UserError
from superconv.report.record import read_run
from superconv.report.run_page import run_page
from superconv.report.runs_page import runs_page


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
        return runs_page(runs).write(out)
    return run_page(runs[0]).write(out, figures=True)
