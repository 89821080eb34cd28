"""Seconds that the example of each public name takes, the slowest first: none should take two.

python benchmarks/examples.py
"""

import contextlib
import doctest
import io
import tempfile
import time

import superconv


def seconds(name: str) -> float:
    """Seconds of the example of a public name, in a folder of its own."""
    found = doctest.DocTestFinder(recurse=False).find(getattr(superconv, name), name)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        began = time.perf_counter()
        for test in found:
            doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
        return time.perf_counter() - began


if __name__ == "__main__":
    seconds("fit")  # what is loaded and built once
    taken = {name: seconds(name) for name in superconv.__all__ if not name.startswith("_")}
    for name, each in sorted(taken.items(), key=lambda item: -item[1])[:10]:
        print(f"{name:24} {each:6.2f} s")
