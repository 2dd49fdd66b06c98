"""Who trains and who is tested: the published experiments, and the clean form of the third.

==================  ==========================================  =======================================
experiment          trained on                                  tested on
==================  ==========================================  =======================================
1                   compact sources                             compact sources
2                   faint and compact sources                   faint and compact sources
3                   compact sources (the models of 1)           faint compact sources, matched in r
3, as published     the same                                    the same, training objects among them
==================  ==========================================  =======================================

Test objects are the same for every seed; a seed draws the validation set, and with it the training set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import train_test_split

from astro_utils.separation.sets import TASKS, Pool
from astro_utils.sky.selections import matched_in_r
from astro_utils.splits import check_disjoint, hold_out

__all__ = ["EXPERIMENTS", "FRACTIONS", "LEAKY", "SPLITS", "Partition", "partition", "trained_on"]

LEAKY = "3, as published"
#: Experiment to the set that its models are trained on.
EXPERIMENTS = {"1": "compact", "2": "faint", "3": "compact", LEAKY: "compact"}
#: Shares of the test and validation sets: published counts of Experiments 1 and 2 (the variant of
#: Experiment 2 that MargNet and the later MargFormer share).
FRACTIONS = {"compact": (30_000 / 239_999, 29_988 / 239_999), "faint": (0.1, 0.1)}
SPLITS = ("field", "object")


@dataclass(frozen=True)
class Partition:
    """Rows of the pool for one set, one task and one seed.

    Attributes
    ----------
    train, validation : numpy.ndarray
    tests : mapping
        Experiment to rows.
    """

    train: np.ndarray
    validation: np.ndarray
    tests: Mapping[str, np.ndarray]


def trained_on(experiment: str) -> str:
    """Return the set, ``compact`` or ``faint``, that the models of an experiment are trained on."""
    return EXPERIMENTS[experiment]


def partition(pool: Pool, trained: str, task: str, seed: int, split: str = "field") -> Partition:
    """Split one set into training, validation and test objects.

    Parameters
    ----------
    pool : Pool
    trained : {"compact", "faint"}
        The set.
    task : {"SG", "SGQ"}
        The star-galaxy task is the other without quasars.
    seed : int
        Of the validation set; test sets do not depend on it.
    split : {"field", "object"}
        Whether whole fields go to one side, so that no exposure is on two, or single objects, as published
        (the published split itself, where the pool is MargNet's).

    Raises
    ------
    ValueError
        When `trained` or `split` is neither, or an object would be on two sides.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    if trained not in FRACTIONS:
        raise ValueError(f"trained is {trained!r}; expected one of {', '.join(FRACTIONS)}")
    rows = {"compact": pool.compact, "faint": pool.faint}[trained]
    names = pool.table["class"].to_numpy()
    rows = rows[np.isin(names[rows], TASKS[task])]
    for_test, for_validation = FRACTIONS[trained]
    within = for_validation / (1 - for_test)
    if split == "field":
        groups = pool.table["field"].to_numpy()
        tested = np.isin(groups[rows], pool.test_fields)
        rest, test = rows[~tested], rows[tested]
        held = hold_out(groups[rest], within, 1000 + seed)
        train, validation = rest[~held], rest[held]
    else:
        rest, test = train_test_split(rows, test_size=for_test, random_state=42)
        train, validation = train_test_split(rest, test_size=within, random_state=42 + seed)
    more = pool.more_tests[trained]
    test = np.concatenate([test, more[np.isin(names[more], TASKS[task])]])
    tests = {"1" if trained == "compact" else "2": test}
    if trained == "compact":
        tests["3"] = _clean(pool, task, rest, split)
        if task == "SGQ":  # the published star-galaxy lists have no leak
            tests[LEAKY] = pool.published_test[task]
    answer = Partition(np.sort(train), np.sort(validation), {k: np.sort(v) for k, v in tests.items()})
    _check(pool, answer, split)
    return answer


def _clean(pool: Pool, task: str, learned: np.ndarray, split: str) -> np.ndarray:
    """Return the test of Experiment 3 without what was learned from, matched in magnitude again."""
    rows = pool.clean_test[task]
    by = pool.table["field" if split == "field" else "object_id"].to_numpy()
    kept = rows[~np.isin(by[rows], by[learned])]
    if len(kept) == len(rows):
        return rows
    return kept[matched_in_r(pool.table.iloc[kept], TASKS[task], np.random.default_rng(42))]


def _check(pool: Pool, answer: Partition, split: str) -> None:
    """Raise if an object, or a field where the split is by field, is both learned from and tested."""
    identity = pool.table["object_id"].to_numpy()
    field = pool.table["field"].to_numpy()
    check_disjoint(identity[answer.train], identity[answer.validation], "objects of the validation set")
    learned = np.concatenate([answer.train, answer.validation])
    for experiment, rows in answer.tests.items():
        if experiment == LEAKY:  # kept to show what the leak does
            continue
        check_disjoint(identity[learned], identity[rows], f"objects of Experiment {experiment}")
        if split == "field":
            check_disjoint(field[learned], field[rows], f"fields of Experiment {experiment}")
