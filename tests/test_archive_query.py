"""The SQL of compact objects, executed on made-up objects; what published objects say about the selection."""

import itertools
import os

import numpy as np
import pytest
from archive_server import OBJID, database, execute, source

from astro_utils import catalogs, registry
from astro_utils.archive_objects import CLASSES, KEY_MODULUS, KINDS, compact_query
from astro_utils.photometry import SDSS_BANDS


def selected(kind, *sources, label="STAR", **keys):
    connection = database(sources)
    table = execute(connection, compact_query(kind, label, 100, **keys))
    connection.close()
    return table["objID"].sub(OBJID).tolist()


IN = {
    "nothing special": {},
    "c is 0.5": {"radius": 0.5, "seeing": 1.0},
    "one band is extended, the mean is not": {"deVRad_u": 2.4 * 1.2, "radius": 0.0},
    "radii of zero": {"radius": 0.0},
    "bright": {"mag": 16.0},
    "mean magnitude of 20": {"mag": 20.0},
}
OUT = {
    "c above 0.5": {"radius": 0.5, "seeing": 1.0, "deVRad_z": 0.501},
    "c above 0.5 by seeing": {"radius": 0.5, "seeing": 1.0, "psffwhm_g": 0.999},
    "another class": {"class": "QSO"},
    "a warning": {"zWarning": 4},
    "no object": {"bestObjID": 0},
}
UNMEASURED = {
    f"{name} in {band}": {band if name == "magnitude" else f"{name}_{band}": value}
    for band in SDSS_BANDS
    for name, value in {"deVRad": -9999, "psffwhm": -9999, "magnitude": -9999, "extinction": -9999}.items()
}
UNMEASURED |= {"seeing of zero": {"psffwhm_r": 0}, "no seeing": {"psffwhm_r": None}, "no mag": {"i": None}}


@pytest.mark.parametrize("changes", IN.values(), ids=IN)
def test_what_is_compact(changes):
    assert selected("compact", source(1), source(2, **changes)) == [1, 2]


@pytest.mark.parametrize("changes", (OUT | UNMEASURED).values(), ids=OUT | UNMEASURED)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not(kind, changes):
    assert selected(kind, source(1), source(2, **changes)) == [1]


@pytest.mark.parametrize(
    ("magnitudes", "faint"),
    [
        ({"mag": 20.0}, False),
        ({"mag": 20.0, "g": 20.01}, True),
        ({"mag": 20.0, "extinction": 0.5, "z": 20.01}, True),  # as observed, not dereddened
        ({"mag": 20.0, "z": 19.99}, False),
        ({"mag": 17.0, "u": 32.5}, True),  # one band lifts the mean of them all
        ({"mag": 23.0, "u": 7.0}, False),
    ],
)
def test_faint_is_by_the_mean_of_five_model_magnitudes(magnitudes, faint):
    objects = source(1), source(2, **magnitudes)
    assert selected("faint-compact", *objects) == ([1, 2] if faint else [1])
    assert selected("compact", *objects) == [1, 2]


@pytest.mark.parametrize("label", CLASSES)
def test_classes_are_asked_for_one_by_one(label):
    objects = [source(i, **{"class": name}) for i, name in enumerate(CLASSES)]
    assert selected("compact", *objects, label=label) == [CLASSES.index(label)]


def test_keys_are_inclusive_and_pages_make_up_the_whole():
    objects = [source(i) for i in range(60)]
    key = {i: (OBJID + i) % KEY_MODULUS for i in range(60)}
    order = sorted(range(60), key=key.get)
    assert selected("compact", *objects) == order
    first, last = key[order[10]], key[order[19]]
    assert selected("compact", *objects, first_key=first, last_key=last) == order[10:20]
    pages = [(0, first - 1), (first, last), (last + 1, KEY_MODULUS - 1)]
    parts = [selected("compact", *objects, first_key=low, last_key=high) for low, high in pages]
    assert list(itertools.chain(*parts)) == order and all(parts[:2])


def test_top_takes_the_first_of_the_order():
    objects = [source(0, objid=OBJID + i * KEY_MODULUS + j) for i in (2, 0, 1) for j in (1, 0)]
    connection = database(objects)
    table = execute(connection, compact_query("compact", "STAR", 4))
    connection.close()
    # Equal keys go by identifier.
    assert table["objID"].sub(OBJID).tolist() == [0, KEY_MODULUS, 2 * KEY_MODULUS, 1]


def test_columns_are_the_magnitudes_and_colours_that_they_are_called():
    magnitudes = {"u": 22.5, "g": 21.3, "r": 20.9, "i": 20.8, "z": 20.75}
    connection = database([source(1, extinction_u=0.3, extinction_i=0.05, **magnitudes)])
    row = execute(connection, compact_query("faint-compact", "STAR", 1)).iloc[0]
    connection.close()
    assert row["u_g"] == pytest.approx(1.2) and row["i_z"] == pytest.approx(0.05)
    assert row["dered_r"] == pytest.approx(20.8) and row["extinction_r"] == 0.1
    assert row["z"] == 0.0001, "the redshift, not the magnitude in z"
    assert set(catalogs.MARGNET_FEATURES) <= {name.replace("deVRad", "radius") for name in row.index}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("extended", "STAR", 1), "got kind 'extended' and class 'STAR'; expected one of .*'faint-compact'"),
        (("compact", "star", 1), "class 'star'; expected .*'GALAXY', 'QSO', 'STAR'"),
        (("compact", "STAR", 0), "limit is 0; expected 1 to 500000"),
        (("compact", "STAR", 500_001), "limit is 500001"),
        (("compact", "STAR", 1, 5, 4), "keys 5 to 4 are not ascending"),
        (("compact", "STAR", 1, 0, KEY_MODULUS), "keys 0 to 10007 are not .* from 0 to 10006"),
    ],
)
def test_a_wrong_query_is_explained(arguments, message):
    keys = dict(zip(("first_key", "last_key"), arguments[3:], strict=False))
    with pytest.raises(ValueError, match=message):
        compact_query(*arguments[:3], **keys)


# ------------------------------------------------------------------------------------------ published tables


@pytest.fixture(scope="module")
def tables():
    if not os.environ.get("ASTRO_UTILS_DATA"):
        pytest.skip("ASTRO_UTILS_DATA does not name a folder with margnet_tables")
    return registry.fetch("margnet_tables", download=False)


def test_published_objects_bear_the_selection_out(tables):
    table = catalogs.read_margnet(tables)
    faint = np.isin(table["objid"], np.load(tables["margnet/objlist_exp2.npy"], allow_pickle=False))
    dereddened = sum(table[f"dered_{band}"] for band in SDSS_BANDS) / 5
    mean = dereddened + sum(table[f"extinction_{band}"] for band in SDSS_BANDS) / 5
    assert faint.sum() == 13_500 and (mean[faint] > 20).all()
    assert (mean <= 20).sum() == 12 and not faint[mean <= 20].any()
    assert (dereddened[faint] <= 20).sum() == 97
    assert catalogs.compactness(table).between(0, 0.5).all()


def test_keys_of_published_objects_are_spread_evenly(tables):
    objids = np.load(tables["margnet/objlist_exp1.npy"], allow_pickle=False)
    counts = np.bincount(objids % KEY_MODULUS // 100, minlength=101)[:100]
    assert counts.std() == pytest.approx(np.sqrt(counts.mean()), rel=0.25), "as in Poisson's law"
    # And so is each field: neighbours are not drawn together.
    parts = catalogs.decode_sdss_objid(objids[objids % KEY_MODULUS < 500])
    everything = catalogs.decode_sdss_objid(objids)
    share = parts["camcol"].value_counts(normalize=True) / everything["camcol"].value_counts(normalize=True)
    assert share.between(0.9, 1.1).all()
