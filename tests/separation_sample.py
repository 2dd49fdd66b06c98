"""Compact sources for the tests of ``astro_utils.separation``: made up in a moment, or simulated once.

Made-up classes differ in colour and, for bright objects, in size; the fainter, the harder. Nothing of it is
meant to look like the sky.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from astro_utils.catalogs import MARGNET_FEATURES
from astro_utils.photometry import SDSS_BANDS
from astro_utils.samples import Block, Column, SampleInfo, write_sample
from astro_utils.separation.protocol import partition
from astro_utils.separation.sets import TASKS, Pool
from astro_utils.separation.tasks import CALIBRATION, DEGRADED
from astro_utils.sky.compact import compact_sample
from astro_utils.sky.selections import faint

CLASSES = ("GALAXY", "QSO", "STAR")
SIGMA = np.array([0.038, 0.017, 0.027, 0.045, 0.18])  # nanomaggies per pixel, as in SDSS
#: Magnitude in each band less that in r.
_SED = np.array([[2.4, 1.0, 0.0, -0.4, -0.7], [0.3, 0.2, 0.0, -0.1, -0.1], [1.3, 0.5, 0.0, -0.2, -0.3]])
_RADIUS = np.array([0.35, 0.05, 0.05])  # of the FWHM


def catalogue(n: int, n_fields: int = 40, seed: int = 0, bright: float = 17.0) -> pd.DataFrame:
    """Catalogue (n,) of objects of three classes in turn, in fields of their own seeing, noise and dust."""
    rng = np.random.default_rng(seed)
    label, field = np.arange(n) % 3, rng.integers(n_fields, size=n)
    r = rng.uniform(bright, 22.8, n)
    error = 0.03 + 0.25 * 10 ** (0.4 * (r - 22))
    observed = r[:, None] + _SED[label] + error[:, None] * rng.normal(0, 1, (n, 5))
    seeing = rng.uniform(1.0, 1.6, n_fields)[field]
    dust = rng.uniform(0.02, 0.2, n_fields)[field]
    noise = rng.uniform(0.8, 1.2, n_fields)[field]
    table = pd.DataFrame({"object_id": 10**9 + np.arange(n), "ra": 150.0, "dec": 2.0, "field": field})
    table["class"] = np.array(CLASSES)[label]
    for i, b in enumerate(SDSS_BANDS):
        extinction = dust * (1.855, 1.446, 1.0, 0.743, 0.553)[i]
        fwhm = seeing * (1.15, 1.08, 1.0, 0.95, 0.93)[i]
        table[f"dered_{b}"] = observed[:, i] - extinction
        table[f"radius_{b}"] = fwhm * np.clip(_RADIUS[label] + 0.3 * error * rng.normal(0, 1, n), 0, 0.49)
        table[f"psffwhm_{b}"], table[f"extinction_{b}"] = fwhm, extinction
        table[f"sigma_{b}"] = SIGMA[i] * noise
    for i in range(4):
        table["_".join(SDSS_BANDS[i : i + 2])] = observed[:, i] - observed[:, i + 1]
    return table


def stamps(table: pd.DataFrame, size: int = 32, seed: int = 0) -> np.ndarray:
    """Stamps (N, 5, size, size) of Gaussian sources of the catalogue's magnitudes, with the sky's noise."""
    rng = np.random.default_rng(seed)
    grid = np.arange(size) - (size - 1) / 2
    images = np.empty((len(table), 5, size, size), np.float32)
    for i, b in enumerate(SDSS_BANDS):
        flux = 10 ** (0.4 * (22.5 - table[f"dered_{b}"] - table[f"extinction_{b}"])).to_numpy()
        width = np.hypot(table[f"psffwhm_{b}"] / 2.3548, table[f"radius_{b}"]).to_numpy() / 0.396
        line = np.exp(-0.5 * (grid / width[:, None]) ** 2) / (np.sqrt(2 * np.pi) * width[:, None])
        images[:, i] = flux[:, None, None] * line[:, :, None] * line[:, None, :]
        noise = rng.standard_normal((len(table), size, size), dtype=np.float32)
        images[:, i] += table[f"sigma_{b}"].to_numpy(np.float32)[:, None, None] * noise
    return images


def write(path: Path, table: pd.DataFrame, images: np.ndarray) -> Path:
    """Write a catalogue and its stamps as a simulated sample."""
    columns = {name: Column("deg" if name in ("ra", "dec") else "", name) for name in table}
    info = SampleInfo("sdss", "simulated", SDSS_BANDS, 0.396, seed=0)
    return write_sample(path, [Block(table, columns, images)], info)


def made_up(path: Path, n: int, size: int = 32, **arguments) -> Path:
    """Write a made-up sample."""
    table = catalogue(n, **arguments)
    return write(path, table, stamps(table, size))


def simulated(tmp_path_factory) -> Path:
    """Sample of some 1,000 compact objects of the simulated sky, made once in a session."""
    path = tmp_path_factory.getbasetemp() / "compact.h5"
    return path if path.is_file() else compact_sample(path, 2048, seed=3)


def objids(n: int, n_fields: int) -> np.ndarray:
    """Valid SDSS objIDs (n,), object after object in field after field."""
    order = np.arange(n)
    return 2 << 59 | 301 << 48 | 4510 << 32 | 4 << 29 | (30 + order % n_fields) << 16 | order // n_fields


def write_margnet(
    folder: Path, table: pd.DataFrame, images: np.ndarray, lists: dict[str, np.ndarray]
) -> Path:
    """Write MargNet's arrays of each experiment from rows of a catalogue, with labels as upstream has them.

    Those of Experiments 1 and 2 are pickled words, those of Experiment 3 one-hot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = table["class"].to_numpy()
    for part, rows in lists.items():
        classes = ("GALAXY", "STAR") if part.startswith("sg_") else CLASSES
        onehot = (names[rows, None] == np.array(classes)).astype(np.float32)
        arrays = {
            "X": np.moveaxis(images[rows], 1, -1),
            "dnnx": table[list(MARGNET_FEATURES)].to_numpy()[rows],
            "objlist": table["object_id"].to_numpy()[rows],
            "y": onehot if part.endswith("3") else names[rows].astype(object),
        }
        for kind, array in arrays.items():
            np.save(folder / f"{kind}_{part}.npy", array)
    return folder


def probabilities(labels: np.ndarray, skill: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Return calibrated probabilities (N, K) of a classifier that sees labels through unit noise.

    The evidence of the true class is drawn `skill` standard deviations from that of the others; the
    posterior for equal shares of the classes follows.
    """
    skill = np.broadcast_to(skill, labels.shape)[:, None]
    evidence = skill * np.eye(k)[labels] + rng.normal(0, 1, (len(labels), k))
    odds = np.exp(skill * evidence - (skill * evidence).max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def answers(pool: Pool, methods: dict[str, float], n_seeds: int = 2, n_degraded: int = 60) -> pd.DataFrame:
    """Answers of methods of some skill, as trainings would have left them on disk."""
    tables = []
    keys = [(s, trained, task) for s in range(n_seeds) for trained in ("compact", "faint") for task in TASKS]
    for seed, trained, task in keys:
        k, parts = len(TASKS[task]), partition(pool, trained, task, seed)
        sets = {name: (rows, pool.labels(rows, task)) for name, rows in parts.tests.items()}
        if trained == "compact":
            spare = pool.calibration[np.isin(pool.table["class"].to_numpy()[pool.calibration], TASKS[task])]
            sets[CALIBRATION] = spare, pool.labels(spare, task)
            sets[DEGRADED] = np.full(n_degraded, -1), np.arange(n_degraded) % k
        for i, (method, skill) in enumerate(methods.items()):
            for j, (name, (rows, labels)) in enumerate(sets.items()):
                rng = np.random.default_rng([seed, len(trained), k, i, j])
                p = probabilities(labels, skill, k, rng)
                r = np.where(
                    rows < 0, rng.uniform(20, 22.8, len(rows)), pool.table["model_r"].to_numpy()[rows]
                )
                table = pd.DataFrame({"row": rows, "r": r, "label": labels})
                table[[f"p_{c}" for c in TASKS[task]]] = p
                about = {"set": name, "method": method, "trained": trained, "task": task, "seed": seed}
                cost = {"parameters": 100 * (i + 1), "seconds": 2.0 + seed, "epochs": 7, "best_epoch": 5}
                tables.append(table.assign(**about, **cost, n_train=len(parts.train)))
    return pd.concat(tables, ignore_index=True)


def margnet(folder: Path, n: int, size: int) -> tuple[Path, pd.DataFrame, dict[str, np.ndarray]]:
    """Write lists that overlap as MargNet's do: some of Experiment 3 with quasars is in Experiment 1.

    Of the `n` objects, two fifths are in Experiment 1; one of them lacks a pixel.

    Returns
    -------
    pathlib.Path, pandas.DataFrame, dict
        Folder, catalogue of all objects, and the rows of each list.
    """
    table = catalogue(n, seed=5)
    table["object_id"] = objids(n, n_fields=4 * n // 5)
    rng, names = np.random.default_rng(7), table["class"].to_numpy()
    order, r = rng.permutation(n), (table["dered_r"] + table["extinction_r"]).to_numpy()
    in_turn = order[np.argsort(names[order], kind="stable")].reshape(3, -1).T.ravel()
    count = 3 * (2 * n // 15) + 3
    exp1, others = in_turn[:count], in_turn[count:]
    lists = {
        "exp1": rng.permutation(exp1),
        "exp2": rng.permutation(np.flatnonzero(faint(table)))[: n // 5],
        "sg_exp3": others[(r[others] > 20) & (names[others] != "QSO")],
        "sgq_exp3": np.concatenate([others[r[others] > 20], exp1[r[exp1] > 20][: n // 25]]),
    }
    images = stamps(table, size)
    images[lists["exp1"][3], 1, 2, 2] = np.nan
    return write_margnet(folder, table, images, lists), table, lists
