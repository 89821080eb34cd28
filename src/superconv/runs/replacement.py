"""A run that gives way to another in the same folder, and comes back if that one does not begin well.

Nothing outside the folder is touched, and the folder itself stays: it may be a mount point or a link.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from superconv import files
from superconv.runs.folder import RunFolder

MOVING, REPLACED = ".superconv-moving", ".superconv-replaced"  # while files are moved aside; once all are


@dataclass(frozen=True)
class Replacement:
    """The files of a run, moved aside within its folder; each step may be the last before a kill."""

    folder: Path

    def move_aside(self) -> None:
        """Make the folder empty for another run."""
        aside = self.folder / REPLACED
        self.mend()
        if aside.exists() and not RunFolder(self.folder).began_well:  # a killed run was to replace what lies there
            _remove(self._entries())
            return
        shutil.rmtree(aside, ignore_errors=True)
        moving = self.folder / MOVING
        moving.mkdir()
        for entry in self._entries():
            entry.rename(moving / entry.name)
        moving.rename(aside)

    def restore(self) -> None:
        """Bring back the run that was moved aside, in place of whatever is there now."""
        _remove(self._entries())
        aside = self.folder / REPLACED
        if aside.exists():
            aside.rename(self.folder / MOVING)
            self.mend()

    def drop(self) -> None:
        """Remove the run that was moved aside."""
        shutil.rmtree(self.folder / REPLACED, ignore_errors=True)

    def mend(self) -> None:
        """Bring back the files of a move that was killed."""
        moving = self.folder / MOVING
        if moving.exists():
            for entry in moving.iterdir():
                entry.rename(self.folder / entry.name)
            moving.rmdir()

    def _entries(self) -> list[Path]:
        kept = (files.LOCK, MOVING, REPLACED)
        return [entry for entry in self.folder.iterdir() if entry.name not in kept] if self.folder.exists() else []


def _remove(entries: Iterable[Path]) -> None:
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
