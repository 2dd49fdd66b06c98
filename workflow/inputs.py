"""What a notebook depends on: the modules of the package that it imports, and its parameters."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import yaml

__all__ = ["load_parameters", "modules"]

PACKAGE = Path("astro_utils")


def _imports(source: str) -> set[str]:
    """Full names that `source` imports from the package, with the attributes that may be modules."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] == PACKAGE.name}


def _file(name: str) -> Path | None:
    path = Path(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _code(notebook: Path) -> str:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    lines = "\n".join(sources).splitlines()
    return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in lines)


def modules(path: str) -> list[str]:
    """Files of the package that a notebook or module imports, directly or through other modules.

    Parameters
    ----------
    path : str
        A notebook or a Python file, relative to the project's root, which is the current folder.

    Returns
    -------
    list of str
        Sorted paths.
    """
    start = Path(path)
    source = _code(start) if start.suffix == ".ipynb" else start.read_text(encoding="utf-8")
    found: set[Path] = set()
    waiting = _imports(source)
    while waiting:
        file = _file(waiting.pop())
        if file is not None and file not in found:
            found.add(file)
            waiting |= _imports(file.read_text(encoding="utf-8"))
    return sorted(str(file) for file in found)


def load_parameters(profile: str) -> dict[str, dict]:
    """Read the parameters of every notebook at `profile` and check that each notebook exists.

    Raises
    ------
    ValueError
        When the profile or a notebook that it names is unknown.
    """
    folder = Path("workflow/parameters")
    path = folder / f"{profile}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.yaml"))
        raise ValueError(f"no profile {profile!r}; expected one of {known}")
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    for notebook in content:
        if not Path("notebooks", f"{notebook}.ipynb").is_file():
            raise ValueError(
                f"{path}: parameters for {notebook!r}, but notebooks/{notebook}.ipynb is not there"
            )
    return content
