"""The audit of ASTRA: checks on made inputs and on simulated galaxies, verdicts either way, costs."""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from astro_utils.astra import (
    audit,
    audit_findings,
    audit_inputs,
    audit_networks,
    audit_plots,
    audit_targets,
    audit_validation,
)
from astro_utils.astra.audit_setup import AuditSettings, field_weights, interval, mean_with_interval
from astro_utils.astra.normalisation import arcsin_scaling, arcsinh_scaling, noise_scaling
from astro_utils.astra.simulated import read_galaxies, simulation
from astro_utils.astra.targets import own_grid
from astro_utils.models.astra import ASTRA_V1, ASTRA_V2
from astro_utils.results import metric_row, read_metrics, write_metrics
from astro_utils.samples import Spectra
from astro_utils.sky.simulate import simulate

SETTINGS = AuditSettings(n_folds=3, n_bootstrap=20, n_tokens=12, token_width=16, n_train=8, n_epochs=2)


@pytest.fixture(scope="module")
def galaxies(tmp_path_factory):
    path = tmp_path_factory.mktemp("astra") / "galaxies.h5"
    simulate(path, simulation(128, 26, 48), workers=1)
    return read_galaxies(path)


@pytest.fixture(scope="module")
def audited(galaxies, tmp_path_factory):
    rows, curves = audit.audit_rows(galaxies, SETTINGS, "test")
    return read_metrics(write_metrics(tmp_path_factory.mktemp("audit") / "audit.json", rows)), curves


@pytest.fixture
def metrics(audited):
    return audited[0].copy()


def of(metrics, experiment):
    return metrics[metrics["experiment"] == experiment].set_index("model")


# -------------------------------------------------------------------------------------------------- setup


@pytest.mark.parametrize("name", ["n_folds", "n_bootstrap", "n_tokens", "token_width", "n_train", "n_epochs"])
def test_settings_that_are_too_small_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 1; expected .* or more"):
        AuditSettings(**{name: 1})


def test_intervals_are_of_whole_fields():
    values, fields = np.repeat([0.0, 1.0], 50), np.repeat([3, 7], 50)
    found = mean_with_interval(values, field_weights(fields, 200, 0))
    assert found == {"value": 0.5, "lo": 0.0, "hi": 1.0}
    assert interval(np.array([9.0, *range(101)])) == {"value": 9.0, "lo": 2.5, "hi": 97.5}


# ------------------------------------------------------------------------------------------------- inputs


def test_ring_means_are_weighted_by_pixels_and_bands_stay_apart():
    images = np.zeros((2, 5, 32, 32))
    images[0, 1], images[1, 3] = 2.0, -1.0
    means = audit_inputs.annulus_means(images).reshape(2, 5, -1)
    np.testing.assert_allclose(means[0, 1], 2)
    np.testing.assert_allclose(means[1, 3], -1)
    assert not means[0, [0, 2, 3, 4]].any() and not means[1, :3].any()
    images = np.zeros((1, 5, 32, 32))
    images[0, 0, 15:17, 15:17] = 1.0
    inner, *outer = audit_inputs.annulus_means(images).reshape(5, -1)[0]
    assert inner > 0 and not np.any(outer[2:])


def test_predictions_are_from_other_fields():
    rng = np.random.default_rng(0)
    fields = np.repeat(np.arange(6), 20)
    features = np.eye(6)[fields] + 1e-3 * rng.normal(size=(120, 6))  # says the field and nothing else
    of_field = rng.normal(size=6)[fields, None]
    found = audit_inputs.out_of_fold(features, of_field, fields, 3)
    assert 1 - np.square(found - of_field).sum() / np.square(of_field - of_field.mean()).sum() < 0.5
    x = rng.uniform(-1, 1, (120, 2))
    curve = np.stack([x[:, 0] ** 2, 3 * x[:, 1]], 1)
    found = audit_inputs.out_of_fold(x, curve, fields, 3)
    assert (1 - np.square(found - curve).sum(0) / np.square(curve - curve.mean(0)).sum(0) > 0.97).all()
    with pytest.raises(ValueError, match="2 fields for 3 folds"):
        audit_inputs.out_of_fold(x, curve, np.repeat([0, 1], 60), 3)


def test_quantities_are_those_of_the_catalogue(galaxies):
    found, table = audit_inputs.quantities(galaxies), galaxies.catalogue
    np.testing.assert_allclose(found["g - r"], table["dered_g"] - table["dered_r"], atol=1e-3)
    flux = np.log10(table["model_flux_r"].to_numpy(float))
    assert np.corrcoef(found["brightness"], flux)[0, 1] > 0.7


def test_stretches_are_the_scalings(galaxies):
    images = galaxies.images[:3]
    pixels = images[:, 2].reshape(3, -1)
    values = audit_inputs.stretched(images[:, 2], pixels)
    first = (arcsin_scaling(images)[:, 2].reshape(3, -1) + 1) / 2
    np.testing.assert_allclose(values["arcsin"], first, atol=1e-4)
    usual = noise_scaling(images, audit_inputs.SOFTENING)[:, 2].reshape(3, -1)
    low, high = usual.min(1, keepdims=True), usual.max(1, keepdims=True)
    np.testing.assert_allclose(values["arcsinh of flux over noise"], (usual - low) / (high - low), atol=1e-5)
    # Of a ramp the filters change nothing but the edges.
    ramp = np.broadcast_to(np.linspace(0, 3, 48), (1, 5, 48, 48))
    middle = slice(6, 42)
    second = audit_inputs.stretched(ramp[:, 2], ramp[:, 2, 24])["arcsinh"][0, middle]
    np.testing.assert_allclose(second, arcsinh_scaling(ramp)[0, 2, 24, middle], atol=0.02)


def test_scalings_with_one_scale_keep_colour(metrics):
    r2 = of(metrics, "from images: g - r")
    assert set(r2.index) == {*audit_inputs.SCALINGS, "mean"}
    assert r2.loc["mean", "r2"] <= 0 < r2.loc["arcsinh of flux over noise", "r2"]
    for name in ("arcsin", "arcsinh"):
        alone, whole = (r2.loc[f"{name}, {kind}"] for kind in ("each band alone", "one scale per galaxy"))
        assert alone["r2_loss"] == pytest.approx(whole["r2"] - alone["r2"]) and np.isnan(whole["r2_loss"])
    parts = of(metrics, "stretch")[["sky_range", "outskirts_range", "core_range"]]
    assert (parts >= 0).all(axis=None) and (parts.sum(axis=1) <= 1).all()


# ------------------------------------------------------------------------------------------------ targets


def test_real_spectra_begin_and_end_elsewhere():
    table = audit_targets.spectrum_ranges()
    assert (table["survey"] == "MaNGA").sum() == 10 and (table["survey"] == "SDSS").sum() >= 1
    assert (table["first"] < 3900).all() and (table["last"] > 9000).all()
    rows = {row["model"]: row for row in audit_targets.wavelength_rows("test")}
    last = table.loc[table["survey"] == "MaNGA", "last"]
    assert rows["MaNGA"]["shift_last"] == pytest.approx(last.max() - last.min())
    assert rows["MaNGA"]["sky"] == "real" and rows["MaNGA"]["elements"] > 1
    assert ("SDSS" in rows) == ((table["survey"] == "SDSS").sum() > 1)


def made_spectra(galaxies, flux):
    raw = galaxies.raw
    return replace(galaxies, raw=Spectra(raw.wavelength, flux, np.ones_like(flux)))


def test_maxima_are_told_apart(galaxies):
    few = galaxies.select(np.arange(3))
    wavelength = few.raw.wavelength
    flux = np.random.default_rng(0).normal(10, 0.1, (3, len(wavelength)))
    line = 6564.6 * (1 + few.z[0])
    flux[0] += 5 * np.exp(-0.5 * ((wavelength - line) / 4) ** 2)
    spike = np.searchsorted(wavelength, 6800 * (1 + few.z[1]))
    flux[1, spike : spike + 3] += 5
    flux[2] += np.linspace(0, 20, len(wavelength))
    table = audit_targets.maxima(made_spectra(few, flux))
    assert table["line"].tolist() == [True, False, False]
    assert table.loc[0, "wavelength"] == pytest.approx(line, abs=4)
    assert table.loc[1, "excess"] > 20 > 5 > table.loc[2, "excess"]
    assert table.loc[1, "raised"] == pytest.approx(1.5, abs=0.05) and table.loc[2, "raised"] < 1.05


def test_the_share_of_a_factor():
    rng = np.random.default_rng(1)
    shape = 1 + rng.random(40)
    factor = rng.uniform(1, 5, (30, 1))
    weights = np.ones((1, 30))
    assert audit_targets.scale_share(factor * shape, weights)[0] == pytest.approx(1)
    level = shape + rng.normal(0, 1, (30, 40))
    assert audit_targets.scale_share(level, weights)[0] < 0.15
    doubled = np.ones((1, 30))
    doubled[0, :10] = 2
    values = factor * shape + rng.normal(0, 0.5, (30, 40))
    again = np.concatenate([values, values[:10]])
    expected = audit_targets.scale_share(again, np.ones((1, 40)))
    np.testing.assert_allclose(audit_targets.scale_share(values, doubled), expected)


def test_brightness_is_in_the_target_of_version_1_alone(metrics, galaxies):
    share = of(metrics, "scale of the target")["scale_share"]
    assert share["v1"] > 0.7 > 0.3 > share["flux at r = 1"]
    values = own_grid(galaxies.raw, 1, 4000).values
    coarse = values.reshape(len(values), 400, 10).mean(2)
    assert share["v1"] == pytest.approx(audit_targets.scale_share(coarse, np.ones((1, len(values))))[0])


# ----------------------------------------------------------------------------------------------- networks


def test_galaxies_are_found_by_their_own_rows():
    rng = np.random.default_rng(2)
    tokens = rng.normal(size=(6, 4, 8))
    assert audit_networks.found_again(tokens, 3 * tokens + 0.01).all()
    assert not audit_networks.found_again(tokens, np.roll(tokens, 1, 0)).any()
    turn = np.linalg.qr(rng.normal(size=(6, 8, 8)))[0]  # of its own for each galaxy
    turned = 2 * tokens @ turn
    assert audit_networks.found_again(tokens, turned).mean() < 0.7
    likeness = audit_networks.patch_likeness(tokens)
    assert likeness.shape == (6, 6)
    np.testing.assert_allclose(audit_networks.patch_likeness(turned), likeness)


def test_only_a_frozen_patch_cnn_repeats_itself(galaxies, metrics):
    images = torch.from_numpy(arcsin_scaling(galaxies.images[:4, :, 8:40, 8:40]))
    for kind, same in (("frozen", True), ("redrawn", False)):
        one, two = audit_networks.token_pairs(images, 1, kind, 16, 0)
        assert one.shape == (4, 4, 16) and np.allclose(one, two) == same
        np.testing.assert_allclose(one.mean(0), 0, atol=1e-6)
    rows = of(metrics, "tokens")
    for version in ("v1", "v2"):
        frozen, redrawn = rows.loc[f"{version}, frozen"], rows.loc[f"{version}, redrawn"]
        assert frozen["found_share"] == 1 and frozen["correlation_same"] == pytest.approx(1)
        assert abs(redrawn["correlation_same"]) < 0.3 and redrawn["found_share"] <= 0.5
        assert redrawn["chance"] == pytest.approx(1 / 12)


def test_frequencies_stand_twice(metrics):
    rows = of(metrics, "attention")
    theirs, plain = rows.loc["among frequencies"], rows.loc["among tokens"]
    assert (theirs["tokens"], theirs["positions"], theirs["distinct"]) == (325, 512, 257)
    assert plain["distinct"] == 325 and plain["equal_tokens"] == 0
    # Tokens 188 to 324 but for 256 have a partner among them.
    assert theirs["equal_tokens"] == 136
    assert theirs["order_change"] > 0.1 and plain["order_change"] < 0.01


def test_twins_are_counted():
    rows = torch.eye(6, dtype=torch.float64)[[0, 1, 2, 1, 3, 4, 5]]
    assert audit_networks._distinct(rows) == 6 and audit_networks._single(rows) == 5


def test_counts(metrics):
    assert audit_networks.bands_in_a_channel(True) == 5 and audit_networks.bands_in_a_channel(False) == 1
    rows = of(metrics, "parameters")
    assert rows.loc["v1", ["never_trained", "parameters"]].tolist() == [10_488_864, 128_885_408]
    assert rows.loc["v2", ["never_trained", "parameters"]].tolist() == [42_452, 157_332_640]
    assert ASTRA_V1.patch_weights == ASTRA_V2.patch_weights == "redrawn"


# --------------------------------------------------------------------------------------------- validation


def test_both_choices_are_among_the_same_epochs(audited):
    metrics, curves = audited
    rows = of(metrics, "validation")
    assert curves.index.tolist() == [1, 2] and curves.columns[0] == "training"
    for name in ("training set", "other galaxies"):
        assert rows.loc[name, "best_epoch"] == curves[name].idxmin()
        assert rows.loc[name, "loss_ratio"] == pytest.approx((curves[name] / curves["training"]).max())
    ratio = rows.loc["training set", "test_loss"] / rows.loc["other galaxies", "test_loss"]
    assert rows.loc["training set", "test_loss_ratio"] == pytest.approx(ratio)
    if rows["best_epoch"].nunique() == 1:
        assert ratio == 1
    assert np.isnan(rows.loc["other galaxies", "test_loss_ratio"])


def test_training_needs_galaxies(galaxies):
    with pytest.raises(ValueError, match=r"n_train is 5000; expected \d+ or fewer, those at hand"):
        audit_validation.validation_rows(galaxies, replace(SETTINGS, n_train=5000), "test")


# ----------------------------------------------------------------------------------------------- findings

SAME, OTHER, FREQUENCIES = "training set", "other galaxies", "among frequencies"
COLOUR, REDSHIFT, LIGHT = (f"from images: {name}" for name in audit_inputs.QUANTITIES)
#: Finding, row of metrics, values that confirm it, and values that do not.
VERDICTS = [
    (0, "tokens", "v1, redrawn", {"found_share_lo": 0.01}, {"found_share_lo": 0.5}),
    (1, "tokens", "v1, redrawn", {"likeness_share_lo": 0.01}, {"likeness_share_lo": 0.5}),
    (2, "tokens", "v2, frozen", {"found_share": 1}, {"found_share": 0.9}),
    (3, "tokens", "v2, redrawn", {"likeness_share_lo": 0.01}, {"likeness_share_lo": 0.5}),
    (4, "parameters", "v2", {"never_trained": 5}, {"never_trained": 0}),
    (5, "channels", "as published", {"bands": 5}, {"bands": 1}),
    (6, COLOUR, "arcsin, each band alone", {"r2_loss_lo": 0.1}, {"r2_loss_lo": -0.1}),
    (7, REDSHIFT, "arcsin, each band alone", {"r2_loss_lo": 0.1}, {"r2_loss_lo": -0.1}),
    (8, COLOUR, "arcsin, each band alone", {"r2_lo": -0.1}, {"r2_lo": 0.5}),
    (9, COLOUR, "arcsinh, each band alone", {"r2_loss_lo": 0.1}, {"r2_loss_lo": -0.1}),
    (10, REDSHIFT, "arcsinh, each band alone", {"r2_loss_lo": 0.1}, {"r2_loss_lo": -0.1}),
    (11, COLOUR, "arcsinh, each band alone", {"r2_lo": -0.1}, {"r2_lo": 0.5}),
    (12, "stretch", "arcsin", {"outskirts_range_hi": 0.1}, {"outskirts_range_hi": 0.9}),
    (13, "stretch", "arcsin", {"outskirts_range": 0.0}, {"outskirts_range": 0.9}),
    (14, "stretch", "arcsinh", {"core_range_hi": 0.01}, {"core_range_hi": 0.3}),
    (15, "own grid", "MaNGA", {"elements": 7}, {"elements": 0.5}),
    (16, "maximum", "spectra of the sample", {"spike_share_lo": 0.1}, {"spike_share_lo": 0}),
    (17, "scale of the target", "v1", {"scale_share_lo": 0.8}, {"scale_share_lo": 0.3}),
    (18, LIGHT, "arcsinh of flux over noise", {"r2_lo": 0.999}, {"r2_lo": -9}),
    (19, "validation", SAME, {"test_loss_ratio_lo": 1.1}, {"test_loss_ratio_lo": 0.9}),
    (20, "validation", OTHER, {"loss_ratio": 3}, {"loss_ratio": 1.5}),
    (21, "attention", FREQUENCIES, {"distinct": 257}, {"distinct": 512}),
    (22, "attention", FREQUENCIES, {"equal_tokens": 136}, {"equal_tokens": 0}),
    (23, "attention", FREQUENCIES, {"order_change": 2}, {"order_change": 0.001}),
]


def changed(metrics, experiment, model, changes):
    at = (metrics["experiment"] == experiment) & (metrics["model"] == model)
    assert at.sum() == 1 and set(changes) <= set(metrics)
    metrics = metrics.copy()
    metrics.loc[at, list(changes)] = [float(value) for value in changes.values()]
    return metrics


def without_sdss(metrics):
    """Metrics as on a machine without the data folder, so that findings have the same numbers."""
    return metrics[~((metrics["experiment"] == "own grid") & (metrics["model"] == "SDSS"))]


def test_findings_of_a_small_run(metrics):
    table = audit_findings.findings(without_sdss(metrics))
    assert table.columns.tolist() == ["finding", "claim", "expected", "found", "confirmed"]
    assert table["finding"].tolist() == sorted(table["finding"]) and set(table["finding"]) == set(range(1, 7))
    assert table.index.tolist() == [row for row, *_ in VERDICTS] and table["claim"].is_unique
    assert table.loc[[4, 5, 15, 21, 22, 23], "confirmed"].all()
    row = of(metrics, "stretch").loc["arcsin"]
    bounds = (row[f"outskirts_range{end}"] for end in ("", "_lo", "_hi"))
    assert table.loc[13, "found"] == "{:.3f} [{:.3f}, {:.3f}]".format(*bounds)


@pytest.mark.parametrize(("row", "experiment", "model", "good", "bad"), VERDICTS)
def test_verdicts_come_out_either_way(metrics, row, experiment, model, good, bad):
    base = without_sdss(metrics)
    if row == 18:
        base = changed(base, LIGHT, "arcsin, each band alone", {"r2_hi": 0.9})
    confirming = changed(base, experiment, model, good)
    before = audit_findings.findings(confirming)["confirmed"]
    after = audit_findings.findings(changed(confirming, experiment, model, bad))["confirmed"]
    assert before[row] and not after[row]
    assert set(before.index[before != after]) == {row}


def test_a_missing_check_is_named(metrics):
    with pytest.raises(KeyError, match="among frequencies"):
        audit_findings.findings(metrics[metrics["model"] != "among frequencies"])


def test_rows_obey_the_schema(metrics):
    assert set(metrics.loc[metrics["experiment"] == "own grid", "sky"]) == {"real"}
    assert set(metrics.loc[metrics["experiment"] != "own grid", "sky"]) == {"simulated"}
    assert (metrics["n_test"] > 0).all() and not metrics.duplicated(["experiment", "model"]).any()
    for name in [column for column in metrics if column.endswith("_lo")]:
        lo, hi = metrics[name], metrics[f"{name[:-3]}_hi"]
        assert (lo.isna() == hi.isna()).all() and (lo.isna() | (lo <= hi)).all()


# -------------------------------------------------------------------------------------------------- costs

REDRAWN, ALONE = f"{audit.V1} but patch CNN redrawn", f"{audit.V1} but each band scaled alone, arcsinh"
TOGETHER = f"{audit.V1} but one scale per galaxy, arcsinh"


def ablation():
    scores = {audit.V1: (0.6, 0.9), REDRAWN: (0.3, 0.5), ALONE: (0.5, 0.8), TOGETHER: (0.55, 0.86)}
    keys = {"profile": "test", "sky": "simulated", "n_train": 9, "n_test": 9, "seeds": 1}
    rows = [
        metric_row(**keys, experiment="ablation", model=model, metrics={"r2": r2, "r2_continuum": continuum})
        for model, (r2, continuum) in scores.items()
    ]
    loss = {
        "r2_loss": {"value": 0.31, "lo": 0.2, "hi": 0.4},
        "r2_continuum_loss": {"value": 0.41, "lo": -0.1, "hi": 0.5},
    }
    rows += [
        metric_row(**keys, experiment="ablation, against whole", model=model, metrics=loss)
        for model in (REDRAWN, ALONE)
    ]
    return pd.DataFrame(rows)


def test_costs_are_paired_where_they_can_be():
    table = audit.ablation_costs(ablation()).set_index(["model", "whole"])
    assert len(table) == 3
    redrawn = table.loc[REDRAWN, audit.V1]
    assert redrawn[["r2_loss", "r2_loss_lo", "r2_continuum_loss"]].tolist() == [0.31, 0.2, 0.41]
    # Against another counterpart than the whole network there is no paired interval.
    alone = table.loc[ALONE, TOGETHER]
    assert alone["r2_loss"] == pytest.approx(0.05) and alone["r2_continuum_loss"] == pytest.approx(0.06)
    assert np.isnan(alone["r2_continuum_loss_lo"]) and table.loc[ALONE, audit.V1]["r2_loss"] == 0.31
    plain = ablation()
    plain = plain[plain["experiment"] == "ablation"]
    found = audit.ablation_costs(plain).set_index(["model", "whole"]).loc[REDRAWN, audit.V1]
    assert found["r2_continuum_loss"] == pytest.approx(0.4) and np.isnan(found["r2_loss_hi"])


def test_costs_are_confirmed_by_their_interval_alone():
    costs = audit.ablation_costs(ablation())
    assert not audit_findings.cost_findings(costs)["confirmed"].any()
    costs.loc[costs["model"] == REDRAWN, "r2_continuum_loss_lo"] = 0.05
    judged = audit_findings.cost_findings(costs)
    assert judged["confirmed"].tolist() == [True, False, False]
    assert judged.loc[0, "found"] == "0.410 [0.050, 0.500]; all pixels 0.310 [0.200, 0.400]"


def test_costs_need_pairs_and_single_rows():
    table = ablation()
    with pytest.raises(ValueError, match=r"no finding has both its variants; models .* \['v1, mended'\]"):
        audit.ablation_costs(table[table["model"] == audit.V1])
    with pytest.raises(ValueError, match="2 rows of experiment 'ablation' and model 'v1, mended'"):
        audit.ablation_costs(pd.concat([table, table[:1]]))


def test_every_variant_of_the_costs_has_a_finding():
    assert [finding for finding, *_ in audit.COSTS] == sorted(finding for finding, *_ in audit.COSTS)
    assert len(set(audit.COSTS)) == len(audit.COSTS)


# ------------------------------------------------------------------------------------------------ figures


@cache
def costs():
    return audit.ablation_costs(ablation())


def test_figures(galaxies, audited):
    metrics, curves = audited
    images = torch.from_numpy(arcsin_scaling(galaxies.images[:4, :, 8:40, 8:40]))
    pairs = {kind: audit_networks.token_pairs(images, 1, kind, 16, 0) for kind in ("redrawn", "frozen")}
    made = {
        "tokens": audit_plots.token_figure(pairs),
        "colour": audit_plots.colour_figure(metrics),
        "stretch": audit_plots.stretch_figure(galaxies.images[0, 2], 0.03),
        "validation": audit_plots.validation_figure(curves, metrics),
        "costs": audit_plots.cost_figure(costs()),
    }
    for figure in made.values():
        figure.canvas.draw()
    assert len(made["colour"].axes) == 3 and len(made["tokens"].axes) == 3
    shown = made["tokens"].axes[1].images[0].get_array()
    np.testing.assert_allclose(np.diag(shown), 1)
    assert [len(t.get_text()) > 0 for t in made["costs"].axes[0].get_yticklabels()] == [True] * 3
    labels = [text.get_text() for text in made["validation"].axes[0].get_legend().get_texts()]
    assert len(labels) == 6 and any(label.startswith("chosen: epoch") for label in labels)
    plt.close("all")
