"""Where the project lies on this machine."""

from pathlib import Path

__all__ = ["project_root"]


def project_root() -> Path:
    """Find the project's root: the folder that holds ``_config.yml`` and ``data/registry.toml``.

    The current directory and its parents are tried first, so that a second checkout finds its own data;
    then the parents of this package.

    Returns
    -------
    Path
        The root, absolute.

    Raises
    ------
    FileNotFoundError
        Neither the current directory nor the package lies in the project.
    """
    here, package = Path.cwd(), Path(__file__).resolve()
    for folder in (here, *here.parents, *package.parents):
        if (folder / "_config.yml").is_file() and (folder / "data" / "registry.toml").is_file():
            return folder
    raise FileNotFoundError(
        f"no folder with _config.yml and data/registry.toml at or above {here} or {package.parent}; "
        "run from within the project"
    )
