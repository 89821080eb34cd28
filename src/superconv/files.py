"""Files written whole or not at all, by one process, and checked when they are read."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import yaml
from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from superconv.errors import UserError, one_line

T = TypeVar("T")
LOCK = ".lock"


def native(value: Any) -> Any:
    """A value with Python's own numbers in place of NumPy's and torch's, as files, hashes and optimizers want them.

    >>> import numpy as np
    >>> native({"lr": np.float64(0.1), "betas": (np.float32(0.5), 1)})
    {'lr': 0.1, 'betas': (0.5, 1)}
    """
    if isinstance(value, Mapping):
        return {key: native(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(native(part) for part in value) if type(value) in (tuple, list) else value
    return value.tolist() if hasattr(value, "tolist") and hasattr(value, "dtype") else value


def make_native(instance: Any) -> None:
    """Make the numbers of a frozen dataclass Python's own, in its `__post_init__`."""
    for name, value in vars(instance).items():
        object.__setattr__(instance, name, native(value))


def writes() -> bool:
    """Whether this process is the one that writes, of those that torchrun started."""
    return int(os.environ.get("RANK", "0")) == 0


def locked(folder: Path) -> AbstractContextManager[object]:
    """Keep other processes out of a folder, from this call to the end of the block or of the process.

    Who holds it may enter again; of several processes that torchrun started, the one that writes holds it for all.

    Raises:
        UserError: Another process works there.
    """
    if not writes() or (folder.exists() and not os.access(folder, os.W_OK)):  # what is finished there can be read
        return nullcontext()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(folder / LOCK, is_singleton=True).acquire(blocking=False)
    except Timeout:
        raise UserError(f"another process works in {folder}: wait for it, or choose another folder") from None


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block ends well, and vanishes otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON (a NaN raises `ValueError`) whole or not at all."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_text(path: Path) -> str:
    """Read a text file; what cannot be read is a `UserError` that names it."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {_reason(error)}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file; what cannot be read is a `UserError` that names it."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON (line {error.lineno}: {error.msg})") from error


def read_yaml(path: Path) -> Any:
    """Read a YAML file; what cannot be read is a `UserError` that names it."""
    try:
        return yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {one_line(error)}") from error


def checked(kind: type[T], value: Any, *, source: object) -> T:
    """Turn plain JSON or YAML values into the dataclass `kind`, or say in one line which field of `source` is wrong."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise UserError(f"{source}: {field}: {first['msg']}") from error


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
