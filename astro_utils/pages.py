"""Pages that are made from results: scoreboard, status, downloads, the speed of the sky and of training.

``python -m astro_utils.pages --profile quick --out book/_generated`` writes them as Markdown, which pages of
the book include.
"""

from __future__ import annotations

import argparse
import json
import os
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from astro_utils.paths import project_root
from astro_utils.results import atomic, read_metrics, select

__all__ = ["bench", "downloads", "main", "scoreboard", "status"]

NOT_YET = "not yet"


def _number(query: dict[str, Any], root: Path) -> float:
    """Look one number up: ``file`` below data/published, key columns, ``metric`` and a factor ``scale``."""
    keys = {k: v for k, v in query.items() if k in ("experiment", "model", "profile", "sky")}
    row = select(read_metrics(root / "data" / "published" / query["file"]), **keys)
    if query["metric"] not in row or pd.isna(row[query["metric"]]):
        raise KeyError(f"no {query['metric']} in the row {keys} of {query['file']}")
    return float(row[query["metric"]]) * query.get("scale", 1.0)


def _cell(cell: dict[str, Any] | None, root: Path, where: str) -> str:
    """Fill one cell of the scoreboard; a cell that is not described, or whose file is not there, says so."""
    if cell is None:
        return NOT_YET
    queries = cell.get("numbers", [])
    if any(not (root / "data" / "published" / query["file"]).is_file() for query in queries):
        return NOT_YET
    try:
        return cell["text"].format(*(_number(query, root) for query in queries))
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"book/scoreboard.toml, {where}: {error}") from error


def scoreboard(root: Path) -> str:
    """Table of the landing page, from ``book/scoreboard.toml`` and the published metrics, as Markdown.

    Raises
    ------
    ValueError
        Naming the study and the column, when a number that is asked for is not in the metrics.
    """
    content = tomllib.loads((root / "book" / "scoreboard.toml").read_text(encoding="utf-8"))
    columns = content["columns"]
    lines = [
        "| " + " | ".join(columns.values()) + " |",
        "|" + " --- |" * len(columns),
    ]
    for row in content["study"]:
        unknown = set(row) - set(columns) - {"title", "page"}
        if unknown:
            raise ValueError(
                f"book/scoreboard.toml, {row['title']}: no column {sorted(unknown)} in {list(columns)}"
            )
        cells = [f"**{row['title']}**" if "page" not in row else f"[**{row['title']}**]({row['page']})"]
        cells += [_cell(row.get(name), root, f"{row['title']}, {name}") for name in list(columns)[1:]]
        lines.append("| " + " | ".join(cells) + " |")
    return ":::{table}\n:class: scoreboard\n\n" + "\n".join(lines) + "\n\n:::\n"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _stamps(root: Path, profile: str) -> list[tuple[str, dict[str, Any]]]:
    """Provenance stamps of this profile's run and of the published runs, with what to call them."""
    found = [
        (f"this run ({profile})", path)
        for path in sorted((root / "results" / profile).glob("*/provenance/*.json"))
    ]
    found += [
        ("published run", path) for path in sorted((root / "data" / "published").glob("*/provenance/*.json"))
    ]
    return [(kind, json.loads(path.read_text(encoding="utf-8"))) for kind, path in found]


def status(root: Path, profile: str) -> str:
    """Table of every notebook that ran: run, profile, time, commit, device, when; as Markdown."""
    lines = [
        "| notebook | run | profile | wall time | commit | device | finished (UTC) |",
        "|" + " --- |" * 7,
    ]
    for kind, stamp in _stamps(root, profile):
        made_with = stamp["parameters"].get("profile_name", "–")
        link = f"[{stamp['notebook']}]({stamp['notebook']}.ipynb)"
        cells = (link, kind, made_with, _duration(stamp["wall_time_s"]), f"`{stamp['commit']}`")
        cells += (stamp["device"].split(" (")[0], stamp["finished"].replace("T", " ").rstrip("Z"))
        lines.append("| " + " | ".join(cells) + " |")
    versions = {name: v for _, stamp in _stamps(root, profile)[:1] for name, v in stamp["versions"].items()}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return "\n".join(lines) + f"\n\nVersions of this run: {listed}.\n"


def downloads(root: Path, profile: str, page: Path) -> str:
    """List the figures and tables of this run with links relative to the folder `page`, as Markdown."""
    results = root / "results" / profile
    lines = []
    for study in sorted(p.name for p in results.iterdir() if p.is_dir()):
        rows = []
        for figure in sorted((results / study / "figures").glob("*.png")):
            links = [figure, figure.with_suffix(".pdf")]
            rows.append((f"figure `{figure.stem}`", links))
        rows += [(f"table `{t.stem}`", [t]) for t in sorted((results / study / "tables").glob("*.csv"))]
        metrics = sorted((results / study).glob("**/metrics.json"))
        rows += [
            (f"metrics `{m.relative_to(results)}`", [m])
            for m in metrics
            if "publish" not in m.relative_to(results).parts
        ]
        if rows:
            lines += [f"## {study}", "", "| what | files |", "| --- | --- |"]
            for name, paths in rows:
                links = " · ".join(f"[{p.suffix[1:].upper()}]({os.path.relpath(p, page)})" for p in paths)
                lines.append(f"| {name} | {links} |")
            lines.append("")
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table, numbers to the right."""
    cells = [[f"{c:,}" if isinstance(c, int) else str(c) for c in row] for row in rows]
    rule = "| :--- |" + " ---: |" * (len(head) - 1)
    return ["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(row) + " |" for row in cells), ""]


def _machine(machine: dict[str, Any]) -> str:
    kind = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB"
    used = ", ".join(f"{k} {v}" for k, v in machine.items() if k not in ("processor", "cores", "memory_gb"))
    return f"Machine: {kind}; {used}."


def _bench_sky(content: dict[str, Any]) -> list[str]:
    columns = ("survey", "objects", "processes", "seconds", "objects_per_second", "file_mb")
    head = ("survey", "objects", "processes", "seconds (median of 3)", "objects/s", "file, MB")
    lines = _table(head, ([row[c] for c in columns] for row in content["speed"]))
    memory = ([row["objects"], row["peak_mb"]] for row in content["memory"])
    lines += _table(("objects (SDSS, one process)", "peak memory, MB"), memory)
    return [*lines, f"Stamps of 32 × 32 pixels with all measured columns. {_machine(content['machine'])}", ""]


def _bench_training(content: dict[str, Any]) -> list[str]:
    columns = ("model", "parameters", "batch", "fit_bfloat16", "fit", "loader")
    columns += ("fit_bfloat16_over_loader", "fit_over_loader")
    head = ("model", "parameters", "batch", "this loop, bfloat16", "float32", "DataLoader", "ratio")
    head += ("ratio, float32",)
    lines = _table(head, ([row[c] for c in columns] for row in content["loops"]))
    one = content["published"]
    lines += [
        "Training steps a second, medians. The DataLoader's loop reads and augments object by object, in "
        "float32; the ratio is of this loop in bfloat16 to it. In float32 both spend most of a step in the "
        "network, which is the same, so that its size decides the ratio.",
        "",
    ]
    flops = one["gflop_per_step"]
    head = (
        "type",
        "seconds a step",
        "GFLOP/s of products of its shape",
        "share, as published",
        "as executed",
    )
    columns = ("type", "seconds_per_step", "layer_gflops", "published_over_layer", "executed_over_layer")
    lines += _table(head, ([row[c] for c in columns] for row in one["steps"]))
    lines += [
        f"The published network at batch {one['batch']}: {flops['published']} GFLOP of matrix products a "
        f"step in the published order of multiplications, {flops['executed']} as executed; shares are of the "
        f"machine's measured rate for products of the layers' shape. {_machine(content['machine'])}",
        "",
    ]
    return lines


def _bench_psf(content: dict[str, Any]) -> list[str]:
    head = ("pupil", "stars/s", "with gradient", "largest error", "mean error")
    columns = ("pupil", "stars_per_second", "stars_per_second_with_gradient")
    errors = ("polychromatic_max_error", "polychromatic_mean_error")
    lines = _table(head, ([row[c] for c in (*columns, *errors)] for row in content["models"]))
    head = ("nodes along each axis", "stars", "seconds", "largest error")
    columns = ("nodes", "stars", "seconds", "max_error")
    lines += _table(head, ([row[c] for c in columns] for row in content["catalogues"]))
    fits = [row for row in content["fits"] if "relative_error" in row]
    head = ("fit", "stars", "seconds", "relative error, %")
    lines += _table(
        head, ([row[c] for c in ("method", "stars", "seconds", "relative_error")] for row in fits)
    )
    schedules = [row for row in content["fits"] if "seconds_extrapolated" in row]
    head = ("published schedule", "stars", "blocks of samples", "passes", "seconds (extrapolated)")
    columns = ("method", "stars", "coarse", "passes_published", "seconds_extrapolated")
    lines += _table(head, ([row[c] for c in columns] for row in schedules))
    return [
        *lines,
        f"Stars of 8 wavelengths and 32 × 32 pixels, {content['models'][0]['batch']} at a time; medians. "
        "Errors are relative (L2), against a plain transform in float64, or for catalogues against the same "
        "model without interpolation. The schedule is the published one for 2,000 stars, from the measured "
        "time of some epochs; the NumPy simulator of the original takes about 400 ms a star on one thread, "
        "and its models were trained on V100 GPUs. "
        f"{_machine(content['machine'])}",
        "",
    ]


def bench(root: Path, name: str = "sky") -> str:
    """Tables of ``data/published/bench/<name>.json``, which ``make bench`` writes, as Markdown."""
    path = root / "data" / "published" / "bench" / f"{name}.json"
    if not path.is_file():
        return "Not measured yet: `make bench`.\n"
    show = {"sky": _bench_sky, "training": _bench_training, "psf": _bench_psf}[name]
    return "\n".join(show(json.loads(path.read_text(encoding="utf-8"))))


def main(argv: list[str] | None = None) -> None:
    """Write the generated pages."""
    parser = argparse.ArgumentParser(prog="python -m astro_utils.pages", description=main.__doc__)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args(argv)
    root = project_root()
    pages = {
        "scoreboard": scoreboard(root),
        "status": status(root, options.profile),
        "bench": bench(root),
        "bench_training": bench(root, "training"),
        "bench_psf": bench(root, "psf"),
        "downloads": downloads(root, options.profile, options.out.resolve().parent),
    }
    for name, text in pages.items():
        with atomic(options.out / f"{name}.md") as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
