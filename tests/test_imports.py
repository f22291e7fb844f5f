"""The graph of imports: no circle, and no inner layer that knows an outer one.

Imports inside functions and for types count: a circle that Python happens to get through is one.
"""

import ast
import re
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import mlx_dequant

PACKAGE = Path(mlx_dequant.__file__).parent
ROOT = PACKAGE.name

# Innermost first. A module imports its own layer and those before it.
LAYERS = (
    ("errors", "checks", "disk_cache", "dtypes", "fast_divmod", "kept", "log", "needs", "renamed", "zero_points"),
    ("registry", "group_shapes"),
    ("encoded", "kernels", "kernel_text"),
    ("kernel_declarations", "kernel_names"),
    ("kernel_source", "tuning", "act_order"),
    ("launches", "dispatch"),
    ("backends",),
    ("ops",),
    ("weights",),
    ("nn", "fusing", "functions"),
    ("loading",),
    ("lm",),
    ("diagnostics",),
    ("bridges", "bench"),
    ("cli", "__main__"),
)
LAYER_OF = {name: at for at, layer in enumerate(LAYERS) for name in layer}
# What the package's own __init__ may import at once: the rest it brings when it is asked for.
EAGER = {f"{ROOT}._version", f"{ROOT}.errors", f"{ROOT}.needs", f"{ROOT}.registry"}
NO_LAYER = {"metal", "_version"}  # shaders, and the script that writes their tables; a number


def files(package: Path = PACKAGE) -> dict[str, Path]:
    """Every module by its dotted name; what lies behind the package's links too."""
    found = {}
    for folder in (package, *(path for path in package.iterdir() if path.is_symlink() and path.is_dir())):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(package).with_suffix("").parts
            found[".".join((package.name, *parts)).removesuffix(".__init__")] = path
    return found


def imported(name: str, path: Path, modules: dict[str, Path], tree: ast.AST | None = None) -> set[str]:
    """The package's modules that a module imports anywhere in it."""
    found = set()
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(tree or ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in modules}
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            if source in modules:
                inner = {f"{source}.{alias.name}" for alias in node.names} & modules.keys()
                # `from package import name` runs the package, `from package import module` the module.
                found |= inner
                if len(inner) < len(node.names):
                    found.add(source)
    return found - {name}


def packages(name: str, other: str, modules: dict[str, Path]) -> set[str]:
    """The packages around `other` that are not around `name`: their __init__ runs first."""
    parts = other.split(".")
    around = {".".join(parts[:end]) for end in range(1, len(parts))}
    return {each for each in around & modules.keys() if not name.startswith(f"{each}.") and each != name}


def graph(modules: dict[str, Path]) -> dict[str, set[str]]:
    """Who imports whom. The package's own __init__ gives names that it imports later, so nobody waits for it."""
    found = {name: imported(name, path, modules) for name, path in modules.items() if name != ROOT}
    return {
        name: {*those, *(each for other in those for each in packages(name, other, modules))} - {ROOT}
        for name, those in found.items()
    }


def layer(name: str) -> int:
    return LAYER_OF[name.split(".")[1]]


MODULES = files()


def test_every_module_is_in_a_layer():
    assert len(MODULES) > 80
    names = {name.split(".")[1] for name in MODULES if name != ROOT}
    assert names - LAYER_OF.keys() - NO_LAYER == set()
    assert {"bridges", "bench", "backends"} <= names


def test_the_page_on_the_architecture_has_these_layers():
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text().partition("| layer |")[2].partition("\n\n")[0]
    named = [tuple(re.findall(r"`(\w+)/?`", line.split("|")[1])) for line in page.splitlines()[2:]]
    assert named == [tuple(name for name in layer if name != "__main__") for layer in LAYERS]


def test_no_circle():
    try:
        tuple(TopologicalSorter(graph(MODULES)).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_no_inner_layer_knows_an_outer_one():
    wrong = [
        f"{name} imports {other}"
        for name, those in sorted(graph(MODULES).items())
        if name.split(".")[1] not in NO_LAYER
        for other in sorted(those)
        if layer(other) > layer(name)
    ]
    assert wrong == []


def test_what_the_package_imports_at_once():
    tree = ast.parse(MODULES[ROOT].read_text())
    tree.body = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert imported(ROOT, MODULES[ROOT], MODULES, tree) == EAGER


def test_standard_names_are_not_taken():
    """A script in the package's folder would find ours first."""
    assert {name.split(".")[1] for name in MODULES if name != ROOT} & (sys.stdlib_module_names - {"__main__"}) == set()


def package(folder: Path, **sources: str) -> dict[str, Path]:
    for name, text in {"__init__": "", **sources}.items():
        path = folder / ROOT / f"{name.replace('__of__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return files(folder / ROOT)


CIRCLES = {
    "at the top": ("from .b import x", "from .a import y"),
    "in a function": ("from . import b", "def f():\n    from mlx_dequant.a import y"),
    "for types": ("import mlx_dequant.b", "if TYPE_CHECKING:\n    from .a import y"),
}


@pytest.mark.parametrize("kind", CIRCLES)
def test_a_circle_is_found(kind, tmp_path):
    a, b = CIRCLES[kind]
    modules = package(tmp_path, a=a, b=b)
    assert graph(modules) == {f"{ROOT}.a": {f"{ROOT}.b"}, f"{ROOT}.b": {f"{ROOT}.a"}}
    with pytest.raises(CycleError):
        tuple(TopologicalSorter(graph(modules)).static_order())


def test_a_folder_of_modules_and_its_init(tmp_path):
    """A module may import its neighbours; its package's __init__ imports it."""
    modules = package(
        tmp_path,
        a__of____init__="from .b import x",
        a__of__b="from . import c\nfrom ..d import y",
        a__of__c="",
        d="",
        e="from .a.c import z",
    )
    assert graph(modules)[f"{ROOT}.a"] == {f"{ROOT}.a.b"}
    assert graph(modules)[f"{ROOT}.a.b"] == {f"{ROOT}.a.c", f"{ROOT}.d"}
    assert graph(modules)[f"{ROOT}.e"] == {f"{ROOT}.a", f"{ROOT}.a.c"}
