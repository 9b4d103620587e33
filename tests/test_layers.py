"""The order of the packages: each imports only what comes before it; no circles."""

import ast

import pytest

from tests.support import ROOT

ROOT = ROOT / "ser"
ORDER = [
    "",  # modules of ser itself
    "cluster",
    "data",
    "lang",
    "corpora",
    "models",
    "training",
    "scoring",
    "predict",
    "reporting",
    "release",
    "cli",
]
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def package(module: str) -> str:
    """The folder of ser/ that a module is in; empty for those of ser itself."""
    parts = module.split(".")
    if module == "ser.__main__":
        return "cli"
    return parts[1] if len(parts) > 1 and f"ser.{parts[1]}" in PACKAGES else ""


PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py"}


def imported(module: str) -> set[str]:
    """The modules of ser that ``module`` imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            both = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            modules = [name for name in both if name in MODULES and name not in PACKAGES]
            found.update(modules or [name for name in both if name in MODULES])
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name in MODULES)
    return found - {module}


def test_every_package_has_its_place_in_the_order():
    assert {package(module) for module in MODULES} == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_a_package_imports_only_what_comes_before_it(name):
    later = set(ORDER[ORDER.index(name) + 1 :])
    wrong = [
        f"{module} imports {other}"
        for module in MODULES
        if package(module) == name
        for other in sorted(imported(module))
        if package(other) in later
    ]
    assert not wrong


def test_no_two_modules_import_each_other():
    """Also over others in between."""
    graph = {module: imported(module) - PACKAGES for module in MODULES}
    while leaves := [module for module, needs in graph.items() if not needs & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert not graph
