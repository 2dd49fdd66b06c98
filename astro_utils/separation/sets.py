"""The objects of the study: one pool of compact sources, simulated or MargNet's own, and its subsets.

MargNet's experiments (Chaini et al. 2023, MNRAS 518, 3123) draw on two sets, *compact* sources and *faint*
compact ones, which share most of their faint objects, and on a third, matched in magnitude, for the test of
Experiment 3. All three are rows of one pool here, so that an object is one object wherever it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from astro_utils.catalogs import MARGNET_FEATURES
from astro_utils.photometry import SDSS_BANDS
from astro_utils.samples import open_sample
from astro_utils.sky.degrade import border_noise
from astro_utils.sky.selections import compact, faint, matched_in_r, model_r
from astro_utils.splits import hold_out
from astro_utils.survey_files import margnet_blocks, margnet_info

__all__ = ["TASKS", "Pool", "margnet_pool", "read_pool", "simulated_pool"]

#: Classes of the two tasks, in the order of the published confusion matrices.
TASKS = {"SG": ("GALAXY", "STAR"), "SGQ": ("GALAXY", "QSO", "STAR")}
_CLASSES = TASKS["SGQ"]
_NOISE = tuple(f"sigma_{b}" for b in SDSS_BANDS)
#: What the pool keeps of a catalogue, where the catalogue has it.
_KEPT = ("object_id", "ra", "dec", "field", "class", "z", *MARGNET_FEATURES, *_NOISE)


@dataclass(frozen=True)
class Pool:
    """Compact sources with their images, and which of them belong to which set.

    Attributes
    ----------
    table : pandas.DataFrame
        (N,) ``object_id``, ``class``, ``field`` (a group whose objects share an exposure), MargNet's 24
        features, ``sigma_u`` to ``sigma_z`` (noise of the sky, nanomaggies per pixel) and ``model_r`` (model
        magnitude, not corrected for extinction).
    images : numpy.ndarray
        (N, 5, ny, nx) float32 nanomaggies, ugriz.
    sky : {"simulated", "real"}
    compact, faint : numpy.ndarray
        Rows of the sets of Experiments 1 and 2.
    published_test : mapping
        ``SG`` and ``SGQ`` to the rows of the test of Experiment 3 as it was published, with the training
        objects that are in it.
    clean_test : mapping
        The same, from objects that are meant for this test alone.
    test_fields : numpy.ndarray
        Fields whose objects are tested in Experiments 1 and 2, where whole fields go to one side; drawn once
        for both sets, so that neither is trained on the other's test.
    more_tests : mapping
        ``compact`` and ``faint`` to more rows for the tests of Experiments 1 and 2, drawn like the set from
        fields of which nothing is learned; empty where a pool has none.
    calibration : numpy.ndarray
        Rows that are meant for the calibration of conformal sets alone, drawn like the compact set but for
        the shares of the classes; empty where a pool has none to spare.
    """

    table: pd.DataFrame
    images: np.ndarray
    sky: str
    compact: np.ndarray
    faint: np.ndarray
    published_test: Mapping[str, np.ndarray]
    clean_test: Mapping[str, np.ndarray]
    test_fields: np.ndarray
    more_tests: Mapping[str, np.ndarray]
    calibration: np.ndarray

    def labels(self, rows: np.ndarray, task: str) -> np.ndarray:
        """Class numbers of `rows` in `task`; all must be of its classes."""
        names = self.table["class"].to_numpy()[rows]
        unknown = ~np.isin(names, TASKS[task])
        if unknown.any():
            raise ValueError(f"task {task} has no class {names[unknown][0]!r}; expected {TASKS[task]}")
        return pd.Categorical(names, TASKS[task]).codes.astype(np.int64)


def simulated_pool(
    path: str | Path, *, reserve: float = 0.3, n_compact: int = 0, n_faint: int = 0, seed: int = 0
) -> Pool:
    """Draw the three sets from a simulated sample of compact sources, as the published ones were drawn.

    The compact set has as many galaxies as quasars and stars; the faint set likewise, of compact sources
    whose mean magnitude is above 20. Nothing is learned from the fields of the reserve. The test of
    Experiment 3, matched in bins of 0.1 mag above r = 20, is drawn from one half of them; as published, 69 %
    of the galaxies and 6 % of the others in its form with quasars are objects that are learned from (the
    shares of the published lists). The same half has more objects for the tests of Experiments 1 and 2.

    Parameters
    ----------
    path : path
        Sample made by :mod:`astro_utils.sky.compact`.
    reserve : float
        Share of the fields that is kept apart: one half for tests, the other for calibration.
    n_compact, n_faint : int
        Objects to learn from (training and validation) in the compact and in the faint set at most, and half
        of those in `more_tests` at most (0: as many as the rarest class allows).
    seed : int
        Of the draws.

    Raises
    ------
    ValueError
        When the sample is too small to hold every class in every set.
    """
    with open_sample(path) as sample:
        names = [name for name in _KEPT if name in sample.columns]
        table = sample.catalogue(names)
        images = sample.images()
    keep = np.flatnonzero(compact(table).to_numpy())
    table, images = table.iloc[keep].reset_index(drop=True), images[keep]
    table["model_r"] = model_r(table)
    rng = np.random.default_rng(seed)
    fields = table["field"].to_numpy()
    kept_apart = np.flatnonzero(hold_out(fields, reserve, seed))
    candidates = np.setdiff1d(np.arange(len(table)), kept_apart)
    for_calibration = hold_out(fields[kept_apart], 0.5, seed)
    calibration, reserved = kept_apart[for_calibration], kept_apart[~for_calibration]
    test_fields = _test_fields(fields[candidates])
    is_faint = faint(table).to_numpy()
    sets, more_tests = {}, {}
    every = np.full(len(table), True)
    for name, most, wanted in (("compact", n_compact, every), ("faint", n_faint, is_faint)):
        rows = candidates[wanted[candidates]]
        tested = np.isin(fields[rows], test_fields)
        learned = _balanced(table, rows[~tested], rng, most // len(_CLASSES))
        sets[name] = np.sort(np.concatenate([learned, _balanced(table, rows[tested], rng, 0)]))
        more_tests[name] = _balanced(table, reserved[wanted[reserved]], rng, 2 * most // len(_CLASSES))
    reserved = reserved[(table["model_r"] > 20).to_numpy()[reserved]]
    clean, published = {}, {}
    for task, classes in TASKS.items():
        of_task = reserved[np.isin(table["class"].to_numpy()[reserved], classes)]
        clean[task] = of_task[matched_in_r(table.iloc[of_task], classes, rng)]
        published[task] = clean[task]
    learned = sets["compact"][~np.isin(fields[sets["compact"]], test_fields)]
    # The published star-galaxy lists have no object in common; those with quasars have.
    published["SGQ"] = _with_leak(table, clean["SGQ"], learned, rng)
    return Pool(
        table,
        images,
        "simulated",
        sets["compact"],
        sets["faint"],
        published,
        clean,
        test_fields,
        more_tests,
        calibration,
    )


def _balanced(table: pd.DataFrame, rows: np.ndarray, rng: np.random.Generator, n: int) -> np.ndarray:
    """Equally many rows of each class, in the order of the pool."""
    members = [rows[(table["class"].to_numpy()[rows] == name)] for name in _CLASSES]
    count = min(map(len, members))
    if count < 5:
        raise ValueError(f"a class has {count} objects in a set; expected at least 5: make a larger sample")
    count = min(n or count, count)
    return np.sort(np.concatenate([rng.permutation(one)[:count] for one in members]))


def _test_fields(fields: np.ndarray) -> np.ndarray:
    """Draw the fields of the tests of Experiments 1 and 2: the published share of Experiment 1."""
    names = np.unique(fields)
    return names[hold_out(names, 30_000 / 239_999, 42)]


#: Shares of the published test of Experiment 3 that Experiment 1 was trained on, counted from the object
#: identifiers of MargNet's repository: 6,536 of 9,511 galaxies, 1,192 of 19,021 quasars and stars.
_LEAKED = {"GALAXY": 6536 / 9511, "QSO": 1192 / 19021, "STAR": 1192 / 19021}


def _with_leak(
    table: pd.DataFrame, clean: np.ndarray, known: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Put known objects of the same class and magnitude in the place of the published shares of `clean`."""
    names, bins = table["class"].to_numpy(), np.floor(table["model_r"].to_numpy() / 0.1).astype(int)
    out = []
    for name, share in _LEAKED.items():
        for index in np.unique(bins[clean]):
            mine = rng.permutation(clean[(names[clean] == name) & (bins[clean] == index)])
            twins = rng.permutation(known[(names[known] == name) & (bins[known] == index)])
            count = min(rng.binomial(len(mine), share), len(twins))
            out += [twins[:count], mine[count:]]
    return np.sort(np.concatenate(out))


def margnet_pool(folder: str | Path, unit: str = "nanomaggy") -> Pool:
    """Read MargNet's published arrays as one pool.

    Parameters
    ----------
    folder : path
        Holds ``X_*.npy``, ``dnnx_*.npy``, ``objlist_*.npy`` and ``y_*.npy`` of ``exp1``, ``exp2``,
        ``sg_exp3`` and ``sgq_exp3`` (Zenodo, doi 10.5281/zenodo.6659435).
    unit : str
        Of the pixels: see :func:`astro_utils.survey_files.margnet_blocks`.

    Raises
    ------
    FileNotFoundError, ValueError
        With the file's name: an array is missing, damaged or of another shape; or an object is of one class
        in one list and of another in the next.
    """
    tables, stamps, rows = [], [], {}
    known: dict[int, tuple[int, str]] = {}
    count = 0
    for part in ("exp1", "exp2", "sg_exp3", "sgq_exp3"):
        mine = []
        for block in margnet_blocks(folder, part, unit):
            identity = block.catalogue["object_id"].tolist()
            names = block.catalogue["class"].tolist()
            new = [i for i, one in enumerate(identity) if one not in known]
            known |= {identity[i]: (count + order, names[i]) for order, i in enumerate(new)}
            count += len(new)
            for one, name in zip(identity, names, strict=True):
                if known[one][1] != name:
                    raise ValueError(
                        f"{folder}: objID {one} is {name} in objlist_{part}.npy and {known[one][1]} elsewhere"
                    )
            mine += [known[one][0] for one in identity]
            tables.append(block.catalogue.iloc[new])
            stamps.append(np.nan_to_num(block.images[new]))
        rows[part] = np.array(mine)
    table = pd.concat(tables, ignore_index=True)
    images = np.concatenate(stamps)
    table["field"] = table.groupby(["run", "camcol", "field"]).ngroup()
    table = table.join(pd.DataFrame(border_noise(images), columns=list(_NOISE)))
    table["model_r"] = model_r(table)
    sky = margnet_info(unit).sky
    published = {"SG": rows["sg_exp3"], "SGQ": rows["sgq_exp3"]}
    used = np.union1d(rows["exp1"], rows["exp2"])
    tested = _test_fields(table["field"].to_numpy()[used])
    none = np.array([], dtype=int)
    more_tests = {"compact": none, "faint": none}
    # The lists hold nothing else to test on: the clean test is what a partition leaves of them.
    return Pool(
        table, images, sky, rows["exp1"], rows["exp2"], published, published, tested, more_tests, none
    )


def read_pool(
    source: str, path: str | Path, *, reserve: float = 0.3, n_compact: int = 0, n_faint: int = 0
) -> Pool:
    """Read the pool that a notebook was told to use.

    Parameters
    ----------
    source : {"simulated", "margnet"}
    path : path
        The simulated sample, or the folder of MargNet's arrays.
    reserve, n_compact, n_faint
        See :func:`simulated_pool`.
    """
    if source == "simulated":
        return simulated_pool(path, reserve=reserve, n_compact=n_compact, n_faint=n_faint)
    if source == "margnet":
        return margnet_pool(path)
    raise ValueError(f"source is {source!r}; expected 'simulated' or 'margnet'")
