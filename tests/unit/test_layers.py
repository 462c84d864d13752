"""The layers of the design, held by reading every import of the package."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "thems_jobs"
PURE = {
    "abc", "collections", "dataclasses", "datetime", "difflib", "enum", "functools", "hashlib", "heapq", "ipaddress",
    "itertools", "json", "math", "operator", "re", "statistics", "string", "typing", "xml",
}  # fmt: skip


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def layer(module: str) -> str:
    """Given `thems_jobs.clients.ssh`, return `clients`; for a module at the top, its own name."""
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    """Given a module's file, return the full names of all modules that it imports, wherever in the file.

    What is imported for the type checker alone is not there when the program runs, and does not count.
    """
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            found.add(str(node.module))
            if node.module and node.module.startswith("thems_jobs"):
                found |= {f"{node.module}.{alias.name}" for alias in node.names if is_module(node.module, alias.name)}
    return found


def is_module(package: str, name: str) -> bool:
    folder = SOURCE.joinpath(*package.split(".")[1:])
    return (folder / f"{name}.py").exists() or (folder / name).is_dir()


def own_imports(path: Path) -> set[str]:
    return {name for name in imports(path) if name.startswith("thems_jobs.")}


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_imports_only_what_its_layer_may(path: Path) -> None:
    name = name_of(path)
    mine, used = layer(name), own_imports(path)
    layers = {layer(other) for other in used}
    if mine == "core":
        assert layers <= {"core", "errors"}, "core decides; it knows nothing but itself"
        outside = {other.split(".")[0] for other in imports(path) if not other.startswith("thems_jobs")}
        assert outside <= PURE, "core is pure: no I/O, no clock, no randomness, the standard library alone"
    if mine == "errors":
        assert not layers
    if mine == "clients":
        system = ".".join(name.split(".")[:3])
        others = {o for o in used if layer(o) == "clients" and not f"{o}.".startswith(f"{system}.")}
        assert not others - {"thems_jobs.clients"}, "a client never uses another"
        assert not layers & {"jobs", "runner", "report", "cli"}
    if mine in ("runner", "run_state", "ending", "lease", "report"):
        assert not layers & {"clients", "jobs", "cli", "lab"}
    if mine == "jobs":
        assert not layers & {"runner", "report", "cli", "lab"}
    if mine == "lab":
        assert layers <= {"lab"}, "the lab shares nothing with the rest, so that no misreading is shared"
    if "lab" in layers and mine != "lab":
        assert mine == "cli", "only the command line mounts the lab"
    if mine != "cli":
        assert "cli" not in layers, "nothing uses the command line"


def test_only_the_command_lines_print_and_exit() -> None:
    """Ours is a package, the lab has its own; `lab/world.py` is a process of its own, which ends with its order."""
    command_lines = (SOURCE / "cli", SOURCE / "lab" / "cli.py", SOURCE / "lab" / "world.py")
    found = set()
    for path in modules():
        if {"print", "sys.exit", "typer.Exit"} & called(path):
            found.add(path)
    assert SOURCE / "cli" / "running.py" in found, "nothing was found: this test looks for the wrong thing"
    assert not [path for path in found if not any(path.is_relative_to(place) for place in command_lines)]


def called(path: Path) -> set[str]:
    """Given a module's file, return what is called in it, as it is written there."""
    return {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}


def test_the_command_line_flows_one_way() -> None:
    """The face mounts the commands, these use what they share; no command uses another, nothing below the face."""
    shared = {f"thems_jobs.cli.{name}" for name in ("options", "running", "endings")}
    below = [path for path in (SOURCE / "cli").glob("*.py") if path.name != "__init__.py"]
    assert {name_of(path) for path in below} > shared
    for path in below:
        used = {name for name in own_imports(path) if layer(name) == "cli"} - {"thems_jobs.cli"}
        assert used <= shared, f"{name_of(path)} uses {used - shared}"
        assert name_of(path) not in shared or used <= {"thems_jobs.cli.endings"}


def test_a_module_is_one_idea() -> None:
    """Nobody reads five hundred lines with pleasure; a command line, three hundred and fifty."""
    for path in modules():
        limit = 350 if path.is_relative_to(SOURCE / "cli") else 500
        assert len(path.read_text().splitlines()) <= limit, f"{name_of(path)}: split it where it has two ideas"


def test_jobs_do_not_use_each_other() -> None:
    """A job has parameters, a plan and a `job` function; what several share is a named module beside them."""
    jobs = {name_of(p) for p in (SOURCE / "jobs").glob("*.py") if "\ndef job(" in p.read_text()}
    assert jobs, "no job was found: this test looks for the wrong thing"
    for path in (SOURCE / "jobs").glob("*.py"):
        others = own_imports(path) & (jobs - {name_of(path)})
        assert not others, f"{name_of(path)} uses {others}"


def test_each_library_is_imported_by_one_client() -> None:
    owners: dict[str, set[str]] = {}
    for path in modules():
        for name in imports(path):
            root = name.split(".")[0]
            if root in ("proxmoxer", "pymysql", "requests", "ansible_runner", "tenacity", "jenkins", "jenkins_jobs"):
                owners.setdefault(root, set()).add(layer(name_of(path)))
    assert owners
    assert all(layers <= {"clients", "lab"} for layers in owners.values()), owners
