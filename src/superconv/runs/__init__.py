"""Runs: made once, kept in folders, one or many at a time."""
