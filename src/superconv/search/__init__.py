"""Choices made before or beside a run."""
