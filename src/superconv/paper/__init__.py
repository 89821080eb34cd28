"""The paper's figures, tables and claims as data: which runs, beside which of the author's logs, saying what."""
