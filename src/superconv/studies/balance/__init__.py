"""How much other regularization a large rate leaves room for."""
