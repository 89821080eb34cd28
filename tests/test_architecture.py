"""The floors of docs/architecture.md, held to by the imports themselves."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import superconv

ROOT = Path(superconv.__file__).parent
FLOORS = {"cli": 4, "commands": 4, "__main__": 4, "integrations": 4, "report": 4}
FLOORS |= {"studies": 3, "paper": 3, "training": 2}
FILES = sorted(ROOT.rglob("*.py"))
# The one lazy call upwards (DESIGN: `Curve.plot`), and the package's own lazy front.
UPWARD = {("rates/curve.py", "report"), ("training/plan.py", "__init__")}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            base = node.module or ""
            found |= {f"superconv.{alias.name}" for alias in node.names} if base == "superconv" else {base}
    return {name for name in found if name.split(".")[0] == "superconv"}


@pytest.mark.parametrize("path", [p for p in FILES if p.parent != ROOT or p.stem != "__init__"], ids=str)
def test_nobody_imports_from_above(path: Path):
    inside = path.relative_to(ROOT)
    own = FLOORS.get(inside.parts[0].removesuffix(".py"), 1)
    for module in imports(path):
        other = room(module)
        if other == "__version__" or (str(inside), other) in UPWARD:
            continue
        assert FLOORS.get(other, 1) <= own, f"{inside} (floor {own}) imports {module}"


@pytest.mark.parametrize(
    "module", ["superconv", "superconv.rates.verdict", "superconv.commands", "superconv.rates.schedules"]
)
def test_what_needs_no_torch_and_draws_nothing_imports_neither(module: str):
    code = f"import sys, {module}; sys.exit(not sys.modules.keys().isdisjoint(('torch', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_can_be_imported():
    for name in superconv.__all__:
        assert getattr(superconv, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        superconv.nothing  # noqa: B018


def test_files_are_read_in_one_sitting():
    for path in [*FILES, *Path(__file__).parent.glob("*.py")]:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
