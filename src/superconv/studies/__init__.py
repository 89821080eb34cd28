"""Studies: which runs to make, and what they mean together."""
