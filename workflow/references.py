"""Execute notebooks at their defaults and keep their outputs as the reference that nbval compares with.

Pictures and downloads are left out: nbval never compares them, and they would grow the repository with every
change. Run it with ``make references``, or for some notebooks ``python workflow/references.py PATH...``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

PICTURES = ("image/png", "application/pdf", "text/html")


def text_of(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """Return `output` without pictures and warnings, or None if nothing is left."""
    if output.output_type == "stream":
        return None if output.name == "stderr" else output
    if output.output_type == "error":
        raise RuntimeError("\n".join(output.traceback))
    for kind in PICTURES:
        output.data.pop(kind, None)
    return output if output.data else None


def refresh(path: Path) -> None:
    """Execute the notebook at `path` in its own folder and write it back with text outputs only."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(path.parent)}}).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            checked = "nbval-check-output" in cell.metadata.get("tags", [])
            kept = [text_of(output) for output in cell.outputs] if checked else []
            cell.outputs = [output for output in kept if output is not None]
        cell.metadata.pop("execution", None)
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "language_info": {"name": "python"}}
    nbformat.write(notebook, path)


def main() -> None:
    """Refresh the notebooks named on the command line, or all, in the order of their names."""
    root = Path(__file__).resolve().parents[1]
    paths = [Path(argument) for argument in sys.argv[1:]] or sorted((root / "notebooks").glob("*/*.ipynb"))
    for path in paths:
        print(f"{path} ...", flush=True)
        refresh(path)


if __name__ == "__main__":
    main()
