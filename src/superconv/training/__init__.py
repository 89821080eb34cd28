"""Runs: how one training is made, stopped, resumed and undone."""
