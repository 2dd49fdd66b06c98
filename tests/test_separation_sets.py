"""Who is in which set, and who is learned from and tested: the draws, the splits and MargNet's own arrays."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import separation_sample as made
from sklearn.model_selection import train_test_split

from astro_utils.catalogs import MARGNET_FEATURES, compactness
from astro_utils.photometry import SDSS_BANDS
from astro_utils.samples import open_sample
from astro_utils.separation.protocol import EXPERIMENTS, FRACTIONS, LEAKY, SPLITS, partition, trained_on
from astro_utils.separation.sets import TASKS, Pool, read_pool, simulated_pool
from astro_utils.sky.selections import faint

SETS = [(trained, task) for trained in ("compact", "faint") for task in TASKS]


def names(pool, rows):
    return pool.table["class"].to_numpy()[rows]


def ids(pool, rows):
    return set(pool.table["object_id"].to_numpy()[rows])


def fields(pool, rows):
    return set(pool.table["field"].to_numpy()[rows])


def learned(parts):
    return np.concatenate([parts.train, parts.validation])


def per_bin(pool, rows):
    """Objects of each class (columns) in bins of 0.1 mag of r."""
    part = pool.table.iloc[rows]
    return pd.crosstab(np.floor((part["dered_r"] + part["extinction_r"]) / 0.1).astype(int), part["class"])


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """9,000 objects with stamps of 8 pixels, some of them too large to be compact."""
    table = made.catalogue(9000, n_fields=90)
    large = (np.arange(9000) % 7 == 0) & (table["class"] == "GALAXY")
    table.loc[large, [f"radius_{b}" for b in SDSS_BANDS]] *= 3
    return made.write(tmp_path_factory.mktemp("sets") / "compact.h5", table, made.stamps(table, 8))


@pytest.fixture(scope="module")
def pool(sample):
    return simulated_pool(sample)


# --------------------------------------------------------------------------------------------------- sets


def test_sets_hold_compact_objects_and_as_many_of_each_class(pool):
    assert pool.sky == "simulated" and 8500 < len(pool.table) < 9000
    assert (compactness(pool.table) <= 0.5).all()
    np.testing.assert_allclose(pool.table["model_r"], pool.table["dered_r"] + pool.table["extinction_r"])
    assert pool.images.shape == (len(pool.table), 5, 8, 8) and pool.images.dtype == np.float32
    for rows in (pool.compact, pool.faint):
        tested = np.isin(pool.table["field"].to_numpy()[rows], pool.test_fields)
        for part in (rows[tested], rows[~tested]):
            counts = pd.Series(names(pool, part)).value_counts()
            assert len(counts) == 3 and counts.nunique() == 1 and counts.iloc[0] > 50
        assert len(set(rows)) == len(rows)


def test_stamps_stay_with_their_objects(sample, pool):
    with open_sample(sample) as written:
        images = written.images()
    rows = pool.table["object_id"].to_numpy() - 10**9
    assert len(rows) < len(images), "objects that are not compact are left out"
    np.testing.assert_array_equal(pool.images, images[rows])


def test_the_faint_set_is_faint_and_shares_objects_with_the_compact_one(pool):
    table = pool.table.iloc[pool.faint]
    observed = np.stack([table[f"dered_{b}"] + table[f"extinction_{b}"] for b in SDSS_BANDS])
    assert (observed.mean(0) > 20).all()
    assert not faint(pool.table.iloc[pool.compact]).all()
    assert len(np.intersect1d(pool.compact, pool.faint)) > 0.5 * len(pool.faint)


@pytest.mark.parametrize("task", TASKS)
def test_experiment_3_is_faint_and_matched_in_r(pool, task):
    for test in (pool.clean_test[task], pool.published_test[task]):
        assert (pool.table["model_r"].to_numpy()[test] > 20).all() and len(set(test)) == len(test)
        counts = per_bin(pool, test)
        assert tuple(counts) == TASKS[task] and len(counts) > 20
        assert (counts.nunique(axis=1) == 1).all() and counts.to_numpy().sum() == len(test) > 300


def test_published_experiment_3_with_quasars_holds_the_published_share_of_known_objects(pool):
    known = learned(partition(pool, "compact", "SGQ", 0))
    test = pool.published_test["SGQ"]
    leaked = np.isin(test, known)
    for name, share in (("GALAXY", 6536 / 9511), ("QSO", 1192 / 19021), ("STAR", 1192 / 19021)):
        mine = leaked[names(pool, test) == name]
        error = np.sqrt(share * (1 - share) / len(mine))
        assert abs(mine.mean() - share) < 3.5 * error, name
    assert 0.2 < leaked.mean() < 0.35, "more than a quarter of the published list"
    # The others are those of the clean test, and there is a known object for each that is not.
    assert set(test[~leaked]) < set(pool.clean_test["SGQ"]) and len(test) == len(pool.clean_test["SGQ"])


def test_the_published_star_galaxy_test_holds_no_known_object(pool):
    known = learned(partition(pool, "compact", "SG", 0))
    assert not np.isin(pool.published_test["SG"], known).any()
    assert LEAKY not in partition(pool, "compact", "SG", 0).tests


def test_what_is_reserved_is_reserved(pool):
    """Fields of Experiment 3 and of the calibration are not learned from, and not the same."""
    both = [partition(pool, trained, "SGQ", 0) for trained in ("compact", "faint")]
    used = fields(pool, np.concatenate([learned(parts) for parts in both]))
    tested = fields(pool, np.concatenate([*pool.clean_test.values()]))
    spare = fields(pool, pool.calibration)
    assert not used & tested and not used & spare and not tested & spare
    assert not spare & fields(pool, np.concatenate([*(rows for p in both for rows in p.tests.values())]))
    assert not tested & set(pool.test_fields) and len(tested | spare) == pytest.approx(27, abs=1)
    assert len(spare) == pytest.approx(13, abs=1)
    shares = pd.Series(names(pool, pool.calibration)).value_counts(normalize=True)
    assert len(pool.calibration) > 1000 and (shares > 0.25).all()


def test_neither_set_is_learned_from_where_the_other_is_tested(pool):
    parts = {trained: partition(pool, trained, "SGQ", 0) for trained in ("compact", "faint")}
    for one, other, experiment in (("compact", "faint", "2"), ("faint", "compact", "1")):
        assert not fields(pool, learned(parts[one])) & fields(pool, parts[other].tests[experiment])


def test_limits_are_of_what_is_learned_from_and_leave_experiment_3_alone(sample, pool):
    small = simulated_pool(sample, n_compact=600, n_faint=301)
    for trained, most in (("compact", 600), ("faint", 300)):
        parts, whole = (partition(one, trained, "SGQ", 0) for one in (small, pool))
        assert len(learned(parts)) == most < len(learned(whole))
        assert pd.Series(names(small, learned(parts))).value_counts().tolist() == 3 * [most // 3]
        own = "1" if trained == "compact" else "2"
        assert len(small.more_tests[trained]) == min(2 * most, len(pool.more_tests[trained])) > 300
        for experiment in set(parts.tests) - {LEAKY, own}:
            np.testing.assert_array_equal(parts.tests[experiment], whole.tests[experiment])


def test_the_seed_decides_the_draws(sample, pool):
    again, other = simulated_pool(sample), simulated_pool(sample, seed=1)
    for name in ("compact", "faint", "test_fields", "calibration"):
        np.testing.assert_array_equal(getattr(again, name), getattr(pool, name))
        assert not np.array_equal(getattr(other, name), getattr(pool, name))
    np.testing.assert_array_equal(again.published_test["SGQ"], pool.published_test["SGQ"])


def test_a_small_simulated_sky_fills_every_set(tmp_path_factory):
    pool = read_pool("simulated", made.simulated(tmp_path_factory))
    for trained, task in SETS:
        parts = partition(pool, trained, task, 0)
        assert all(
            set(names(pool, rows)) == set(TASKS[task]) for rows in (parts.train, *parts.tests.values())
        )
    assert np.isfinite(pool.table[[*MARGNET_FEATURES, "model_r"]]).all(axis=None)


# ------------------------------------------------------------------------------------------------- protocol


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("trained", "task"), SETS)
@pytest.mark.parametrize("seed", [0, 1])
def test_nobody_is_learned_from_and_tested(pool, trained, task, split, seed):
    parts = partition(pool, trained, task, seed, split)
    known = ids(pool, learned(parts))
    assert not ids(pool, parts.train) & ids(pool, parts.validation)
    clean = [name for name in parts.tests if name != LEAKY]
    assert clean == (["1", "3"] if trained == "compact" else ["2"])
    for name in clean:
        assert len(parts.tests[name]) > 100 and not known & ids(pool, parts.tests[name]), name
        if split == "field":
            assert not fields(pool, learned(parts)) & fields(pool, parts.tests[name]), name
    if split == "field":
        assert not fields(pool, parts.train) & fields(pool, parts.validation)
    for rows in (parts.train, parts.validation, *parts.tests.values()):
        assert set(names(pool, rows)) == set(TASKS[task]) and (np.diff(rows) > 0).all()
    whole = pool.compact if trained == "compact" else pool.faint
    own = np.sort(np.concatenate([learned(parts), parts.tests[clean[0]]]))
    whole = np.sort(np.concatenate([whole, pool.more_tests[trained]]))
    np.testing.assert_array_equal(own, whole[np.isin(names(pool, whole), TASKS[task])])


@pytest.mark.parametrize("split", SPLITS)
def test_tests_are_the_same_for_every_seed_and_validation_sets_are_not(pool, split):
    first, again, other = (partition(pool, "compact", "SGQ", seed, split) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.validation, again.validation)
    assert len(np.intersect1d(first.validation, other.validation)) < 0.6 * len(first.validation)
    for name in EXPERIMENTS.keys() - {"2"}:
        np.testing.assert_array_equal(first.tests[name], other.tests[name])
    own = np.setdiff1d(first.tests["1"], pool.more_tests["compact"])
    shares = [len(rows) / len(pool.compact) for rows in (own, first.validation)]
    np.testing.assert_allclose(shares, FRACTIONS["compact"], atol=0.03)


def broken(pool, task="SGQ", experiment="1", column="object_id"):
    """A pool in which a training object and a test object are one."""
    parts = partition(pool, "compact", task, 0)
    table = pool.table.copy()
    at = table.columns.get_loc(column)
    alone = np.setdiff1d(parts.tests[experiment], parts.tests["1" if experiment == "3" else "3"])
    table.iloc[alone[5], at] = table.iloc[parts.train[7], at]
    return replace(pool, table=table)


@pytest.mark.parametrize("experiment", ["1", "3"])
def test_a_leak_is_an_error_that_names_the_experiment_and_the_object(pool, experiment):
    wrong = broken(pool, experiment=experiment)
    message = rf"1 objects of Experiment {experiment} are in both training and test set .*such as \[1000"
    with pytest.raises(ValueError, match=message):
        partition(wrong, "compact", "SGQ", 0)


def test_an_object_on_both_sides_of_the_validation_is_an_error(pool):
    parts = partition(pool, "compact", "SGQ", 0)
    table = pool.table.copy()
    at = table.columns.get_loc("object_id")
    table.iloc[parts.validation[0], at] = table.iloc[parts.train[0], at]
    with pytest.raises(ValueError, match="1 objects of the validation set are in both"):
        partition(replace(pool, table=table), "compact", "SGQ", 0)


def test_a_test_object_in_a_field_that_was_learned_from_is_left_out_and_the_rest_matched_again(pool):
    parts = partition(pool, "compact", "SGQ", 0)
    other = partition(broken(pool, experiment="3", column="field"), "compact", "SGQ", 0)
    assert set(other.tests["3"]) < set(parts.tests["3"])
    assert len(other.tests["3"]) == len(parts.tests["3"]) - 3, "one object, and its match of each class"
    assert (per_bin(pool, other.tests["3"]).nunique(axis=1) == 1).all()


@pytest.mark.parametrize(
    ("trained", "task", "published"),
    [
        ("compact", "SGQ", (180_011, 29_988, 30_000)),
        ("compact", "SG", (120_007, 19_992, 20_000)),
        ("faint", "SGQ", (119_996, 15_000, 15_000)),
        ("faint", "SG", (79_996, 10_000, 10_000)),
    ],
)
def test_a_split_of_the_published_lists_has_the_published_sizes(trained, task, published):
    """Lists of 239,999 compact objects, 80,000 of them quasars, and of 149,996, 50,000 of them quasars."""
    n, quasars = {"compact": (239_999, 80_000), "faint": (149_996, 50_000)}[trained]
    rng = np.random.default_rng(0)
    label = rng.permutation(np.repeat(["QSO", "STAR", "GALAXY"], [quasars, 70_000, n - quasars - 70_000]))
    tested = np.arange(n, n + 4)
    table = pd.DataFrame({"object_id": np.arange(n + 4), "field": np.arange(n + 4)})
    table["class"] = np.append(label, ["GALAXY", "STAR", "GALAXY", "STAR"])
    tests = dict.fromkeys(TASKS, tested)
    none = {"compact": tested[:0], "faint": tested[:0]}
    whole = Pool(
        table, np.empty((n + 4, 0)), "real", np.arange(n), np.arange(n), tests, tests, tested, none, tested
    )
    parts = partition(whole, trained, task, 0, "object")
    test = parts.tests["1" if trained == "compact" else "2"]
    assert (len(parts.train), len(parts.validation), len(test)) == published
    if trained == "compact":
        listed = np.arange(n)[np.isin(label, TASKS[task])]
        rest, theirs = train_test_split(listed, test_size=0.125, random_state=42)
        assert set(test) == set(theirs)
        assert set(parts.train) == set(train_test_split(rest, test_size=0.1428, random_state=42)[0])


def test_experiments_are_trained_on_their_sets():
    assert [trained_on(e) for e in ("1", "2", "3", LEAKY)] == ["compact", "faint", "compact", "compact"]


# ------------------------------------------------------------------------------------------------ bad input


def test_another_split_is_refused(pool):
    with pytest.raises(ValueError, match="split is 'sky'; expected one of field, object"):
        partition(pool, "compact", "SGQ", 0, "sky")


def test_another_source_is_refused(sample):
    with pytest.raises(ValueError, match="source is 'sdss'; expected 'simulated' or 'margnet'"):
        read_pool("sdss", sample)


def test_a_class_that_is_not_in_the_task_is_refused(pool):
    rows = pool.compact[:30]
    expected = [TASKS["SGQ"].index(name) for name in names(pool, rows)]
    np.testing.assert_array_equal(pool.labels(rows, "SGQ"), expected)
    with pytest.raises(ValueError, match=r"task SG has no class 'QSO'; expected \('GALAXY', 'STAR'\)"):
        pool.labels(rows, "SG")


@pytest.mark.parametrize(
    ("n", "n_fields", "message"),
    [
        (60, 20, "a class has [0-4] objects in a set; expected at least 5: make a larger sample"),
        (60, 1, "one group cannot be on both sides of a split"),
    ],
)
def test_a_sample_that_is_too_small_is_refused(tmp_path, n, n_fields, message):
    path = made.made_up(tmp_path / "small.h5", n, 8, n_fields=n_fields)
    with pytest.raises(ValueError, match=message):
        simulated_pool(path)


# ---------------------------------------------------------------------------------------- MargNet's arrays


@pytest.fixture(scope="module")
def margnet(tmp_path_factory):
    """Folder of arrays of 1,500 objects, the table that they came from and the rows of each list."""
    return made.margnet(tmp_path_factory.mktemp("margnet"), 1500, 12)


@pytest.fixture(scope="module")
def real(margnet):
    return read_pool("margnet", margnet[0])


def test_an_object_of_several_lists_is_one_object(margnet, real):
    _, table, lists = margnet
    assert real.sky == "real" and real.table["object_id"].is_unique
    assert len(real.table) == len(np.unique(np.concatenate([*lists.values()]))) == len(real.images)
    found = {"exp1": real.compact, "exp2": real.faint}
    found |= {"sg_exp3": real.published_test["SG"], "sgq_exp3": real.published_test["SGQ"]}
    stamps = np.nan_to_num(made.stamps(table, 12))
    for part, rows in found.items():
        mine = real.table.iloc[rows].reset_index(drop=True)
        theirs = table.iloc[lists[part]].reset_index(drop=True)
        columns = ["object_id", "class", *MARGNET_FEATURES]
        pd.testing.assert_frame_equal(mine[columns], theirs[columns], check_dtype=False)
        same = np.isclose(real.images[rows], stamps[lists[part]]).all((1, 2, 3))
        assert (~same).sum() == int(lists["exp1"][3] in lists[part]), "all but the one with a missing pixel"
    assert np.isfinite(real.images).all() and len(real.calibration) == 0


def test_fields_and_noise_come_from_the_identifiers_and_the_pixels(margnet, real):
    _, table, _ = margnet
    known = table.set_index("object_id").loc[real.table["object_id"]]
    objid = real.table["object_id"].to_numpy()
    assert (
        len(set(zip(real.table["field"], objid >> 16 & 0xFFF, strict=True))) == real.table["field"].nunique()
    )
    ratio = (
        real.table[[f"sigma_{b}" for b in SDSS_BANDS]].to_numpy()
        / known[[f"sigma_{b}" for b in SDSS_BANDS]].to_numpy()
    )
    faint_ones = real.table["model_r"].to_numpy() > 21  # of bright ones, the light reaches the frame
    np.testing.assert_allclose(np.median(ratio[faint_ones], 0), 1, atol=0.05)


@pytest.mark.parametrize("task", TASKS)
def test_the_split_by_object_is_the_published_one(margnet, real, task):
    """The authors' calls of scikit-learn, on their lists as they are ordered."""
    folder = margnet[0]
    objid = np.load(folder / "objlist_exp1.npy")
    listed = objid[np.isin(names(real, real.compact), TASKS[task])]
    rest, test = train_test_split(listed, test_size=0.125, random_state=42)
    train, validation = train_test_split(rest, test_size=0.1428, random_state=42)
    parts = partition(real, "compact", task, 0, "object")
    for mine, theirs in ((parts.train, train), (parts.validation, validation), (parts.tests["1"], test)):
        assert ids(real, mine) == set(theirs) and len(mine) == len(theirs)
    other = partition(real, "compact", task, 1, "object")
    assert ids(real, other.tests["1"]) == set(test) and ids(real, other.train) != set(train)


@pytest.mark.parametrize("split", SPLITS)
def test_the_clean_experiment_3_is_what_the_lists_leave_of_it(margnet, real, split):
    parts = partition(real, "compact", "SGQ", 0, split)
    known = ids(real, learned(parts))
    published = np.load(margnet[0] / "objlist_sgq_exp3.npy")
    assert ids(real, parts.tests[LEAKY]) == set(published)
    assert len(known & set(published)) > 30, "the lists were made to leak"
    clean = parts.tests["3"]
    assert not known & ids(real, clean) and ids(real, clean) < set(published)
    assert (per_bin(real, clean).nunique(axis=1) == 1).all() and len(clean) >= 9
    if split == "field":
        assert not fields(real, learned(parts)) & fields(real, clean)


def test_an_object_of_two_classes_is_named_with_its_list(margnet, tmp_path):
    _, table, lists = margnet
    folder = made.write_margnet(tmp_path, table, made.stamps(table, 8), lists)
    shared = np.intersect1d(lists["exp1"], lists["exp2"])[0]
    labels = np.load(folder / "y_exp1.npy", allow_pickle=True)
    wrong = table["class"][lists["exp2"]].to_numpy().astype(object)
    at = int(np.flatnonzero(lists["exp2"] == shared)[0])
    assert wrong[at] in labels
    wrong[at] = "QSO" if wrong[at] == "STAR" else "STAR"
    np.save(folder / "y_exp2.npy", wrong)
    objid = table["object_id"][shared]
    message = f"{folder}: objID {objid} is {wrong[at]} in objlist_exp2.npy and {table['class'][shared]} else"
    with pytest.raises(ValueError, match=message):
        read_pool("margnet", folder)


@pytest.mark.parametrize("name", ["X_exp1", "dnnx_exp2", "objlist_sg_exp3", "y_sgq_exp3"])
def test_a_missing_array_is_named(margnet, tmp_path, name):
    for path in margnet[0].iterdir():
        if path.stem != name:
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(FileNotFoundError, match=f"no {name}.npy"):
        read_pool("margnet", tmp_path)
