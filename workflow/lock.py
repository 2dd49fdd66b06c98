"""Pin every transitive dependency: install what pyproject.toml admits in a new environment and freeze it.

Run it with ``make lock``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

HEADER = """\
# Every package that the project runs with, pinned. Made by `make lock`; edit pyproject.toml instead.
# torch 2.13.0 stands without a build tag: the CPU build where pip is pointed to it, else the platform's own.
"""
EXTRAS = "book,qp,test"


def main() -> None:
    """Write ``requirements.lock`` beside ``pyproject.toml``."""
    root = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [str(Path(folder, "bin", "python")), "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "setuptools>=77", f"{root}[{EXTRAS}]"], check=True)
        frozen = subprocess.run(
            [*pip, "freeze", "--all", "--exclude", "pip", "--exclude", "astro_utils"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    # A local build tag such as +cpu names a file that only one index has.
    pins = [line.split("+")[0] for line in frozen.splitlines() if "==" in line]
    (root / "requirements.lock").write_text(HEADER + "\n".join(pins) + "\n", encoding="utf-8")
    print(f"requirements.lock: {len(pins)} packages")


if __name__ == "__main__":
    main()
