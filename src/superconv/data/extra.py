"""What `pip install 'superconv[data]'` brings, imported when it is needed."""

import importlib
from typing import Any

from superconv.errors import UserError


def require(module: str) -> Any:
    """Import a module of the ``data`` extra.

    Raises:
        UserError: if it is not installed; names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"this data set needs {module.split('.')[0]}: pip install 'superconv[data]'") from error
