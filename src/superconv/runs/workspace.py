"""Where a run is made: a folder found, held, and replaced only by a run that began well."""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from superconv import files
from superconv.errors import UserError
from superconv.runs.folder import RunFolder
from superconv.runs.replacement import MOVING, REPLACED, Replacement
from superconv.training.plan import ExecutionPlan


@contextmanager
def run_folder(
    out: Path | None, *, name: str, settled: Mapping[str, Any], resume: bool, overwrite: bool, plan: ExecutionPlan
) -> Iterator[RunFolder]:
    """Yield the folder of a run, which no other process enters meanwhile; process 0 decides for all.

    What fails before there is a checkpoint leaves nothing behind, and a run that was to be replaced in its place;
    what fails after the run was finished, as its report may, takes nothing from it.

    Args:
        out: The folder; the next free one under runs/, if not given.
        name: Name of the data, for that.
        settled: The options of the run, kept with it; a resume with others is refused.
        resume: Whether to go on with the run in `out`.
        overwrite: Whether to replace the run in `out`.
        plan: Execution plan of the processes.

    Raises:
        UserError: A run to resume is not named or has other options, one is in the way or is being made, or the folder
            holds something that is no run, or the working folder.
    """
    if resume and out is None:
        raise UserError(f"--resume goes on with the run that --out names, such as --out {Path('runs') / name}-1")
    fabric = plan.fabric()
    failure, folder = None, out or _free(Path("runs"), name)
    held: AbstractContextManager[object] = nullcontext()
    if Path.cwd().is_relative_to(os.path.abspath(folder)):
        raise UserError(f"{folder} holds the working folder: name one inside it with --out, such as runs/{name}")
    fresh = not folder.exists()
    if fabric.is_global_zero:
        try:
            held = _prepare(folder, settled, resume=resume, overwrite=overwrite)
        except UserError as error:
            failure = str(error)
    folder, failure = fabric.broadcast((folder, failure))
    if failure:
        raise UserError(failure)
    with held, _given_back(folder, unless=resume or not fabric.is_global_zero, fresh=fresh):
        yield RunFolder(folder)


@contextmanager
def replacing(folder: Path) -> Iterator[None]:
    """Move a run out of the way of the block's, which replaces it when it has begun well, and put it back otherwise.

    Raises:
        UserError: The folder holds something that is no run, or another process works there.
    """
    fresh = not folder.exists()
    with files.locked(folder):
        _make_empty(folder, overwrite=True)
        with _given_back(folder, unless=not files.writes(), fresh=fresh):
            yield


@contextmanager
def _given_back(folder: Path, *, unless: bool, fresh: bool) -> Iterator[None]:
    """Where the block fails before its run began well, leave the folder as it was; else drop the run it replaced."""
    run, before = RunFolder(folder), Replacement(folder)
    try:
        yield
    except BaseException:
        if not unless and not run.began_well:
            before.restore()
            if fresh:
                (folder / files.LOCK).unlink(missing_ok=True)
                with suppress(OSError):  # somebody else has put something there
                    folder.rmdir()
        raise
    finally:
        if not unless and run.began_well:
            before.drop()


def _prepare(
    folder: Path, settled: Mapping[str, Any], *, resume: bool, overwrite: bool
) -> AbstractContextManager[object]:
    spec = RunFolder(folder).spec
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, not a folder: choose another --out")
    if resume:
        Replacement(folder).mend()
        if spec.exists() and (before := spec.read()) != settled:
            raise UserError(f"{folder} holds a run with other options ({_differences(before, settled)})")
    if not resume or not spec.exists():  # a run that was interrupted before anything was kept is begun
        with files.locked(folder) if folder.exists() else nullcontext():
            _make_empty(folder, overwrite=overwrite)
    held = files.locked(folder)
    spec.write(dict(settled))
    return held


def _make_empty(folder: Path, *, overwrite: bool) -> None:
    """Move a run in the folder aside, where that is asked for."""
    ours = (files.LOCK, MOVING, REPLACED)
    entries = [entry.name for entry in folder.iterdir()] if folder.exists() else []
    if all(name == files.LOCK for name in entries):
        return
    run = RunFolder(folder)
    if not (run.spec.exists() or run.task.exists() or run.recipe.exists() or {MOVING, REPLACED} & set(entries)):
        raise UserError(f"{folder} is not empty and holds no run of superconv; choose another --out")
    if not overwrite and not all(name in ours for name in entries):
        raise UserError(f"{folder} holds a run; add --resume to go on with it, or --overwrite to replace it")
    Replacement(folder).move_aside()


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
