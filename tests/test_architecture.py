"""The house of docs/architecture.md, held to by the imports and the files themselves."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import grimp
import pytest
from importlinter.cli import lint_imports

import superconv
from superconv.runs.folder import RunFolder

ROOT = Path(superconv.__file__).parent
REPOSITORY = Path(__file__).parents[1]
FILES = sorted(ROOT.rglob("*.py"))


def test_rooms_lie_in_order_and_no_files_import_each_other_in_a_circle(monkeypatch):
    """The contracts in pyproject.toml; lazy and type-only imports count, and nothing is listed as known."""
    monkeypatch.chdir(REPOSITORY)
    assert lint_imports(no_cache=True) == 0
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    assert text.count("[[tool.importlinter.contracts]]") == 2
    assert "ignore_imports" not in text
    assert "exclude_type_checking_imports" not in text


def test_nobody_inside_imports_the_root():
    graph = grimp.build_graph("superconv", cache_dir=None)
    assert graph.find_modules_that_directly_import("superconv") == set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"


def test_no_module_is_imported_by_a_string_but_in_the_roots_lazy_exports():
    """`pkgutil.resolve_name` is for a user's own `package.module:callable` alone."""
    for path in FILES:
        words = set(re.findall(r"\b(import_module|__import__|resolve_name|exec|eval_code)\b\(", path.read_text()))
        allowed = {ROOT / "__init__.py": {"import_module"}, ROOT / "models" / "registry.py": {"resolve_name"}}
        assert words <= allowed.get(path, set()), path


def test_only_the_run_folder_knows_the_names_of_a_runs_files():
    run = RunFolder(Path("run"))
    names = {value.name for name in dir(RunFolder) if isinstance(value := getattr(run, name), Path)} - {"run"}
    names |= {value.path.name for name in dir(RunFolder) if hasattr(value := getattr(run, name), "found")}
    names = {name for name in names if "." in name}
    assert {"run.json", "recipe.yaml", "range_test.json", "checkpoint.pt", "history.jsonl", "report.html"} <= names
    assert len(names) == 14
    for path in FILES:
        if path == ROOT / "runs" / "folder.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documented = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented:
                assert node.value not in names, f"{path}, line {node.lineno}: {node.value!r}"


@pytest.mark.parametrize(
    "module",
    [
        "superconv",
        "superconv.rates.verdict",
        "superconv.commands",
        "superconv.rates.schedules",
        *(f"superconv.specs.{path.stem}" for path in sorted((ROOT / "specs").glob("*.py")) if path.stem != "__init__"),
    ],
)
def test_what_needs_no_torch_and_draws_nothing_imports_neither(module: str):
    code = f"import sys, {module}; sys.exit(not sys.modules.keys().isdisjoint(('torch', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_can_be_imported():
    for name in superconv.__all__:
        assert getattr(superconv, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        superconv.nothing  # noqa: B018


@pytest.mark.parametrize("spec", [superconv.ImageTask, superconv.Choices, superconv.Comparison])
def test_specs_show_no_command_line_machinery(spec: type):
    assert "tyro" not in str(inspect.signature(spec))
    assert "Annotated" not in str(inspect.signature(spec))


def test_files_are_read_in_one_sitting():
    for path in [*FILES, *Path(__file__).parent.glob("*.py"), *(REPOSITORY / "benchmarks").glob("*.py")]:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
