"""Files below a folder: each once, whatever links lead to it, and without what archives and systems leave there."""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from superconv.errors import UserError

_LEFT_BEHIND = {"__macosx", "thumbs.db", "desktop.ini", "ehthumbs.db", "@eadir", "$recycle.bin", "lost+found"}
_Identity = tuple[int, int]


def left_behind(name: str) -> bool:
    """Whether an archive or a system put a file or folder of this name there: ``.DS_Store``, ``__MACOSX``."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, linked ones too, in a fixed order."""
    return sorted(d for d in folder.iterdir() if d.is_dir() and not left_behind(d.name))


@dataclass
class Walk:
    """A walk through folders that meets each folder and each file once, by device and inode."""

    seen: set[_Identity] = field(default_factory=set)
    again: list[Path] = field(default_factory=list)
    """Files and folders that were met before, by another name."""
    odd: list[Path] = field(default_factory=list)
    """Pipes, devices and sockets."""

    def pass_by(self, folders: Iterable[Path]) -> None:
        """Count folders as met, so that no link leads back into them."""
        self.seen |= {_identity(folder) for folder in folders}

    def files(self, folders: Iterable[Path]) -> dict[Path, list[Path]]:
        """The files below each of some folders, those of a folder before those of its subfolders, by name.

        Links come after all others: one from a folder into another does not take its files away. A link to nothing is
        one of the files: reading it says what is wrong.

        Raises:
            UserError: A folder cannot be read.
        """
        found: dict[Path, list[Path]] = {folder: [] for folder in folders}
        links: list[tuple[Path, Path]] = []
        for folder in found:
            if folder.is_symlink():
                links.append((folder, folder))
            else:
                found[folder] += self._below(folder, folder, links)
        for owner, link in links:  # which grows while it is walked through
            found[owner] += self._of_link(owner, link, links)
        return {folder: sorted(paths, key=_place) for folder, paths in found.items()}

    def holds(self, folder: Path, wanted: Callable[[Path], bool]) -> bool:
        """Whether one of the files below a folder is `wanted`; the walk ends with the first."""
        links = [(folder, folder)]
        return any(wanted(path) for owner, link in links for path in self._of_link(owner, link, links))

    def _of_link(self, owner: Path, link: Path, links: list[tuple[Path, Path]]) -> Iterable[Path]:
        return self._below(owner, link, links) if link.is_dir() else filter(self._is_new, [link])

    def _below(self, owner: Path, folder: Path, links: list[tuple[Path, Path]]) -> Iterator[Path]:
        if self._met(folder):
            return
        for root, folders, files in os.walk(folder, onerror=_refuse):
            kept = []
            for name in sorted(folders) + sorted(files):
                path = Path(root) / name
                if left_behind(name):
                    continue
                if path.is_symlink():
                    links.append((owner, path))
                elif name in folders:
                    if not self._met(path):
                        kept.append(name)
                elif self._is_new(path):
                    yield path
            folders[:] = kept

    def _is_new(self, path: Path) -> bool:
        try:
            mode = path.stat().st_mode
        except OSError:
            return True
        if not stat.S_ISREG(mode):
            self.odd.append(path)
            return False
        return not self._met(path)

    def _met(self, path: Path) -> bool:
        identity = _identity(path)
        if identity in self.seen:
            self.again.append(path)
            return True
        self.seen.add(identity)
        return False


def _identity(path: Path) -> _Identity:
    status = path.stat()
    return status.st_dev, status.st_ino


def _place(path: Path) -> list[tuple[bool, str]]:
    return [*((True, part) for part in path.parts[:-1]), (False, path.name)]


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be read ({error.strerror}): restore or remove it") from error


def left_out(paths: list[Path], why: str) -> list[str]:
    """A note about files that are not read, if there are any."""
    if not paths:
        return []
    kinds = Counter(path.suffix.lower() or "no ending" for path in paths).most_common(4)
    return [f"{len(paths)} {why} ({', '.join(f'{kind} {n}' for kind, n in kinds)}), such as {paths[0]}"]
