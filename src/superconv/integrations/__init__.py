"""How other frameworks and loggers come in."""
