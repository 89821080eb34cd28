"""The folder of a run: made, found again, replaced only by a run that began well."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from superconv import files
from superconv.errors import UserError
from superconv.training.checkpoint import NAME as CHECKPOINT
from superconv.training.plan import ExecutionPlan

KEPT = (CHECKPOINT, "run.json", "diverged-1")  # of a run that began well, a finished one, one that began again


@contextmanager
def run_folder(
    out: Path | None, *, name: str, settled: Mapping[str, Any], resume: bool, overwrite: bool, plan: ExecutionPlan
) -> Iterator[Path]:
    """Yield the folder of a run, which no other process enters meanwhile; process 0 decides for all.

    What fails before there is a checkpoint leaves nothing behind, and a run that was to be replaced in its place;
    what fails after the run was finished, as its report may, takes nothing from it.

    Args:
        out: The folder; none takes the next free one under runs/.
        name: Of the data, for that.
        settled: The options of the run, kept in `spec.json`; a resume with others is refused.
        resume: Go on with the run in `out`.
        overwrite: Replace the run in `out`.
        plan: Of the processes.

    Raises:
        UserError: There is no run to resume or none is named, one that is in the way or is being made, something that
            is no run, or the working folder.
    """
    if resume and out is None:
        raise UserError(f"--resume goes on with the run that --out names, such as --out {Path('runs') / name}-1")
    fabric = plan.fabric()
    failure, folder = None, out or _free(Path("runs"), name)
    held: AbstractContextManager[object] = nullcontext()
    if Path.cwd().is_relative_to(os.path.abspath(folder)):
        raise UserError(f"{folder} holds the working folder: name one inside it with --out, such as runs/{name}")
    replaced = folder.with_name(f"{folder.name}.replaced")
    if fabric.is_global_zero:
        try:
            held = _prepare(folder, replaced, settled, resume=resume, overwrite=overwrite)
        except UserError as error:
            failure = str(error)
    folder, failure = fabric.broadcast((folder, failure))
    if failure:
        raise UserError(failure)
    try:
        with held:
            yield folder
    except BaseException:
        if fabric.is_global_zero and not resume and not _began_well(folder):
            shutil.rmtree(folder)
            if replaced.exists():
                replaced.rename(folder)
        raise
    finally:
        if fabric.is_global_zero and replaced.exists() and _began_well(folder):
            shutil.rmtree(replaced)


def _began_well(folder: Path) -> bool:
    return any((folder / kept).exists() for kept in KEPT)


def _prepare(
    folder: Path, replaced: Path, settled: Mapping[str, Any], *, resume: bool, overwrite: bool
) -> AbstractContextManager[object]:
    spec = folder / "spec.json"
    if resume:
        if not spec.exists():
            raise UserError(f"{folder} holds no run to resume; give --out the folder of one")
        if (before := files.read_json(spec)) != settled:
            raise UserError(f"{folder} holds a run with other options ({_differences(before, settled)})")
    elif folder.exists() and any(kept.name != files.LOCK for kept in folder.iterdir()):
        if not spec.exists():
            raise UserError(f"{folder} is not empty and holds no run of superconv; choose another --out")
        if not overwrite:
            raise UserError(f"{folder} holds a run; add --resume to go on with it, or --overwrite to replace it")
        with files.locked(folder):
            pass
        if replaced.exists() and not _began_well(folder):  # what a killed run was to replace
            shutil.rmtree(folder)
        else:
            shutil.rmtree(replaced, ignore_errors=True)
            folder.rename(replaced)
    held = files.locked(folder)
    files.write_json(spec, settled)
    return held


def _differences(before: Any, now: Any, name: str = "") -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
        return ", ".join(_differences(before.get(k), now.get(k), k) for k in keys)
    return f"{name} was {before}, is {now}"


def _free(root: Path, name: str) -> Path:
    number = 1
    while (root / f"{name}-{number}").exists():
        number += 1
    return root / f"{name}-{number}"
