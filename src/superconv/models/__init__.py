"""Networks by name, the paper's among them, and any other by import string."""

from superconv.models.registry import available, create, default_model, is_foreign, takes

__all__ = ["available", "create", "default_model", "is_foreign", "takes"]
