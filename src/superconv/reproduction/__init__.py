"""The paper's experiments and claims as data, their runs, and the page that judges them."""
