"""Imports point one way: an interpreter of its own imports the modules of a kind, and their source is read as well."""

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from import_rules import FLOWER, STANDARD_LIBRARY, TORCH, WITHOUT_TORCH

ROOT = Path(__file__).resolve().parents[2]
SLICER = {"slicer", "qt", "ctk", "vtk"}
LOADED = """
import sys
before = {name.partition(".")[0] for name in sys.modules}
MODULES
print(*sorted({name.partition(".")[0] for name in sys.modules} - before))
"""


def test_every_module_has_one_entry_in_the_table() -> None:
    tables = [STANDARD_LIBRARY, WITHOUT_TORCH, TORCH, FLOWER]
    assert sum(map(len, tables)) == len(set().union(*tables))
    assert set().union(*tables) == set(modules())


def test_start_up_imports_only_the_standard_library() -> None:
    other_names = {"segviz_core", "__mp_main__"}  # multiprocessing calls the main module so
    assert loaded(STANDARD_LIBRARY) - other_names <= sys.stdlib_module_names


def test_modules_without_torch_bring_in_neither_torch_nor_flower() -> None:
    assert not loaded(WITHOUT_TORCH) & ({"torch", "monai", "flwr"} | SLICER)


@pytest.mark.skipif(find_spec("torch") is None, reason="this environment has no torch")
def test_modules_with_torch_bring_in_no_flower() -> None:
    assert not loaded(TORCH) & ({"flwr"} | SLICER)


@pytest.mark.skipif(find_spec("flwr") is None, reason="this environment has no Flower")
def test_modules_with_flower_bring_in_no_torch() -> None:
    assert not loaded(FLOWER) & ({"torch", "monai"} | SLICER)


@pytest.mark.parametrize(
    "packages, allowed",
    [
        (SLICER, set()),
        ({"torch", "monai"}, TORCH),
        ({"flwr"}, FLOWER),
        ({"nibabel", "SimpleITK"}, WITHOUT_TORCH | TORCH),
        ({"openvino", "nncf"}, {"openvino_graph", "quantization"}),
    ],
    ids=["slicer", "torch", "flower", "image-files", "openvino"],
)
def test_package_is_imported_only_where_the_table_allows(packages: set[str], allowed: set[str]) -> None:
    """Reads the source, so that an import inside a function counts too."""
    importers = {module for module, path in modules().items() if imported(path) & packages}
    assert importers <= allowed


def modules() -> dict[str, Path]:
    """Name below segviz_core ('' is the package itself) -> file, for every module in the tree."""
    package = ROOT / "segviz_core"
    parts = {path: path.relative_to(package).with_suffix("").parts for path in package.rglob("*.py")}
    return {".".join(name for name in names if name != "__init__"): path for path, names in parts.items()}


def loaded(modules: set[str]) -> set[str]:
    """Top-level packages that importing `modules` brings into a fresh interpreter."""
    imports = "\n".join("import " + f"segviz_core.{module}".rstrip(".") for module in sorted(modules))
    code = LOADED.replace("MODULES", imports)
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    names = set(answer.stdout.split())
    assert "segviz_core" in names
    return names


def imported(path: Path) -> set[str]:
    """Top-level packages named in the import statements of a file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
    return names
