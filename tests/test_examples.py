"""Every public name has an example in its docstring, which runs as printed."""

import doctest
import importlib
import pkgutil

import pytest

import superconv
import superconv.report.html  # what is imported once is no part of an example's time
import superconv.studies.compare
import superconv.studies.fit

NAMES = [name for name in superconv.__all__ if name != "__version__"]


def examples(name: str, found: object) -> list[doctest.DocTest]:
    """The examples of an object's own docstring."""
    return [test for test in doctest.DocTestFinder(recurse=False).find(found, name) if test.examples]


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_public_name_runs_as_printed(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (test,) = examples(name, getattr(superconv, name))
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
    assert result.failed == 0
    assert result.attempted > 1


def test_all_other_examples_run_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    public = {id(getattr(superconv, name)) for name in NAMES}
    for found in pkgutil.walk_packages(superconv.__path__, "superconv."):
        if found.name == "superconv.__main__":
            continue
        module = importlib.import_module(found.name)
        for test in doctest.DocTestFinder().find(module, found.name):
            if test.examples and id(test.globs.get(test.name.rpartition(".")[2])) not in public:
                assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test).failed == 0, test.name
