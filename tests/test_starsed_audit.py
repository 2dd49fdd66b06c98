"""The audit of the published stellar classifier: tables, intervals, findings that can come out either way."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from astro_utils.models.star_classifiers import SimilaritySVM
from astro_utils.models.star_features import similarity_features
from astro_utils.models.star_likelihood import TemplateClassifier
from astro_utils.psf import Optics
from astro_utils.results import read_metrics, select, write_metrics
from astro_utils.starsed import audit, audit_findings, audit_plots, audit_rows
from astro_utils.starsed.exposures import Exposure, classifier_stars, exposures, mono_stamps
from astro_utils.starsed.stamps import observe
from astro_utils.starsed.stars import StarConfig, draw_catalogue

OPTICS = Optics(pupil_size=64, stamp=16, modes=15, field_degree=2, field_grid=4)
N_TRAIN, N_TEST = 400, 150


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def exposed():
    return [replace(one, optics=OPTICS, nodes=5) for one in exposures(2, N_TRAIN, N_TEST, "stelib")]


@pytest.fixture(scope="module")
def fields(exposed):
    return audit.observe_fields(exposed)


@pytest.fixture(scope="module")
def table(fields):
    return audit.answer_table(fields, sizes=(50, 150, 1000), n_draws=3)


@pytest.fixture(scope="module")
def errors():
    return audit.pupil_errors((1,), "stelib", 2)


@pytest.fixture(scope="module")
def metrics(fields, table, errors, tmp_path_factory):
    rows = audit_rows.answer_rows(table, "test", 100)
    rows += audit_rows.reshuffle_rows(audit.reshuffle_table(fields, 2), "test")
    rows += audit_rows.pupil_rows(errors, "test") + audit_rows.protocol_rows(fields, "test")
    return read_metrics(write_metrics(tmp_path_factory.mktemp("audit") / "metrics.json", rows))


def of(table, model, field):
    return table[(table["model"] == model) & (table["field"] == field)]


# ------------------------------------------------------------------------------------------------ fields


def test_a_field_in_parts_is_the_field_at_once(exposed, fields):
    exposure, field = exposed[1], fields[1]
    psf = exposure.true_psf()
    catalogue = draw_catalogue(exposure.stars, exposure.templates.classes)
    stars = observe(catalogue, exposure.stars, lambda at: mono_stamps(psf, at), exposure.templates)
    whole = classifier_stars(stars, psf)
    assert len(field.labels) == N_TRAIN + N_TEST > audit._CHUNK
    np.testing.assert_array_equal(field.labels, stars.labels)
    for flux, features in field.features.items():
        expected = similarity_features(whole.stamps, whole.psfs, flux=flux)
        np.testing.assert_allclose(features, expected, rtol=0, atol=1e-7)
    test = whole.take(slice(N_TRAIN, None))
    for flux, found in field.log_likelihood.items():
        expected = TemplateClassifier(exposure.templates.weights, flux=flux).log_likelihood(test)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    # The study's ratio is one of powers: amplitude squared over the pixels of the stamp.
    np.testing.assert_allclose(field.matched_sn**2, 16**2 * field.snr, rtol=1e-4)


def test_stars_unlike_the_published_ones_are_refused():
    for config in (StarConfig(n_train=5, max_shift=0.5), StarConfig(n_train=5, flux_limits=(1.0, 2.0))):
        with pytest.raises(ValueError, match="unit flux in the middle"):
            audit.observe_field(Exposure(1, config, optics=OPTICS, nodes=2))
    with pytest.raises(ValueError, match="n_test is 0"):
        audit.observe_field(Exposure(1, StarConfig(n_test=0), optics=OPTICS, nodes=2))


def test_one_field_is_not_enough(fields):
    with pytest.raises(ValueError, match="1 fields; expected two"):
        audit.answer_table(fields[:1])


# ----------------------------------------------------------------------------------------------- answers


def test_the_machine_is_the_published_one(exposed, fields):
    exposure, field = exposed[0], fields[0]
    psf = exposure.true_psf()
    catalogue = draw_catalogue(exposure.stars, exposure.templates.classes)
    stars = classifier_stars(
        observe(catalogue, exposure.stars, lambda at: mono_stamps(psf, at), exposure.templates), psf
    )
    published = SimilaritySVM().fit(stars.take(slice(N_TRAIN)))
    ours = audit.published_machine().fit(field.features["unit"][:N_TRAIN], field.labels[:N_TRAIN])
    agree = ours.predict(field.features["unit"][N_TRAIN:]) == published.predict(
        stars.take(slice(N_TRAIN, None))
    )
    assert agree.mean() > 0.99  # features differ in their last digits


def test_every_method_answers_every_test_star(table):
    counts = table.groupby("model")["star"].count()
    assert set(counts) == {2 * N_TEST}
    names = {audit.SVM, audit.SVM_MATCHED, audit.SVM_SUM, audit.OTHER_FIELD, audit.LIKELIHOOD}
    assert set(counts.index) == names | {audit.LIKELIHOOD_FREE, "SVM, 50 labels", "SVM, 150 labels"}
    assert (table["within_one"] >= table["accuracy"]).all()
    assert table.groupby("model")["n_train"].first().to_dict() == {
        **dict.fromkeys(names, N_TRAIN),
        audit.LIKELIHOOD: 0,
        audit.LIKELIHOOD_FREE: 0,
        "SVM, 50 labels": 50,
        "SVM, 150 labels": 150,
    }


def test_machines_learn_from_the_stars_that_they_are_said_to(fields, table):
    test = fields[0].features["unit"][N_TRAIN:], fields[0].labels[N_TRAIN:]

    def right(field, rows):
        machine = audit.published_machine().fit(field.features["unit"][rows], field.labels[rows])
        return machine.predict(test[0]) == test[1]

    train = slice(0, N_TRAIN)
    np.testing.assert_array_equal(of(table, audit.SVM, 0)["accuracy"], right(fields[0], train))
    np.testing.assert_array_equal(of(table, audit.OTHER_FIELD, 0)["accuracy"], right(fields[1], train))
    drawn = np.mean([right(fields[0], slice(k, k + 150)) for k in (0, 150)], axis=0)  # 2 sets of 150 in 400
    np.testing.assert_allclose(of(table, "SVM, 150 labels", 0)["accuracy"], drawn)
    posterior = fields[0].log_likelihood["free"]
    np.testing.assert_array_equal(
        of(table, audit.LIKELIHOOD_FREE, 0)["accuracy"], posterior.argmax(1) == test[1]
    )
    second = (np.argsort(-posterior, axis=1)[:, :2] == test[1][:, None]).any(1)
    np.testing.assert_array_equal(of(table, audit.LIKELIHOOD_FREE, 0)["top_two"], second)


def test_classes_that_a_machine_never_saw_are_not_its_second_choice(fields):
    known = np.isin(fields[0].labels, (4, 8, 12))
    machine = audit._fit(fields[0].features["unit"][known], fields[0].labels[known])
    answers = audit._ask(machine, fields[0].features["unit"], fields[0].labels)
    assert answers[~known][:, [0, 2]].sum() == 0 and answers[known, 2].mean() > 0.6
    with pytest.raises(ValueError, match=r"2 labelled stars are of [12] classes; expected three"):
        audit.answer_table(fields, sizes=(2,))


def test_scores_and_losses_are_paired(table):
    rows = pd.DataFrame(audit_rows.answer_rows(table, "test", 100))
    flux = rows[rows["experiment"] == "flux"].set_index("model")
    mean = table.groupby("model")[list(audit.JUDGED)].mean()
    for model, one in flux.iterrows():
        assert one[list(audit.JUDGED)].tolist() == pytest.approx(mean.loc[model].tolist())
        assert one["within_less_top"] == pytest.approx(one["within_one"] - one["top_two"])
        assert one["accuracy_lo"] < one["accuracy"] < one["accuracy_hi"]
        error = np.sqrt(one["accuracy"] * (1 - one["accuracy"]) / (2 * N_TEST))
        assert one["accuracy_hi"] - one["accuracy_lo"] == pytest.approx(3.92 * error, rel=0.3)
    lost = flux.loc[audit.LIKELIHOOD_FREE]
    difference = mean.loc[audit.LIKELIHOOD] - mean.loc[audit.LIKELIHOOD_FREE]
    assert lost["accuracy_loss"] == pytest.approx(difference["accuracy"])
    paired = lost["accuracy_loss_hi"] - lost["accuracy_loss_lo"]
    alone = lost["accuracy_hi"] - lost["accuracy_lo"]
    assert paired < 1.2 * alone  # of unpaired answers it would be 1.4 times as wide
    assert np.isnan(flux.loc[audit.SVM, "accuracy_loss"])
    by_field = table[table["model"] == audit.SVM].groupby("field")["accuracy"].mean()
    assert flux.loc[audit.SVM, "accuracy_sd"] == pytest.approx(by_field.std(ddof=1))
    assert set(rows["sky"]) == {"simulated"} and set(rows["seeds"]) == {2}


def test_bins_of_the_signal_to_noise_ratio(table):
    rows = pd.DataFrame(audit_rows.answer_rows(table, "test", 100))
    bins = rows[(rows["experiment"] == "SNR") & rows["model"].str.startswith(audit.SVM)]
    assert bins["n_test"].sum() == 2 * N_TEST and len(bins) == 3
    middle = table[(table["model"] == audit.SVM) & table["snr"].between(50, 80)]
    assert bins["accuracy"].iloc[1] == pytest.approx(middle["accuracy"].mean())
    assert bins["matched_sn"].iloc[1] == pytest.approx(middle["matched_sn"].mean())


# -------------------------------------------------------------------------------------------- reshuffles


def test_reshuffles_take_new_test_stars(fields):
    runs = audit.reshuffle_table(fields, 3, seed=5)
    assert runs.groupby("field")["reshuffle"].apply(list).tolist() == [[0, 1, 2]] * 2
    one, rng, tested, accuracies = fields[1], np.random.default_rng(6), np.zeros(N_TRAIN + N_TEST), []
    for _ in range(3):
        order = rng.permutation(len(tested))
        train, test = order[:N_TRAIN], order[N_TRAIN:]
        machine = audit.published_machine().fit(one.features["unit"][train], one.labels[train])
        accuracies.append((machine.predict(one.features["unit"][test]) == one.labels[test]).mean())
        tested[test] += 1
    part = runs[runs["field"] == 1]
    np.testing.assert_allclose(part["accuracy"], accuracies)
    assert part["n_effective"].iloc[0] == pytest.approx((3 * N_TEST) ** 2 / (tested**2).sum())
    with pytest.raises(ValueError, match="n_reshuffles is 1"):
        audit.reshuffle_table(fields, 1)


def runs_of(means, spread):
    rng = np.random.default_rng(0)
    frames = []
    for k, mean in enumerate(means):
        drawn = {"reshuffle": range(10), "accuracy": mean + spread * rng.standard_normal(10)}
        frames.append(pd.DataFrame(drawn).assign(field=k, n_train=10_000, n_test=1000, n_effective=5000.0))
    return pd.concat(frames)


def total(means, spread=0.002):
    return audit_rows.reshuffle_rows(runs_of(means, spread), "test")[-1]


def test_fields_that_differ_are_told_from_fields_that_do_not():
    alike, apart = total([0.53] * 5), total([0.50, 0.52, 0.54, 0.56, 0.58])
    assert alike["p_value"] > 0.5 and alike["field_scatter"] == 0
    assert apart["p_value"] < 1e-6
    assert apart["fields_spread"] == pytest.approx(np.std([0.50, 0.52, 0.54, 0.56, 0.58], ddof=1), abs=2e-3)
    error = np.sqrt(0.54 * 0.46 / 5000)
    assert apart["standard_error_mean"] == pytest.approx(error, rel=0.01)
    assert apart["field_scatter"] == pytest.approx(np.sqrt(apart["fields_spread"] ** 2 - error**2), rel=0.01)
    assert apart["standard_error"] == pytest.approx(np.sqrt(0.54 * 0.46 / 1000), rel=0.01)


def test_p_values_of_equal_fields_are_uniform():
    rng = np.random.default_rng(1)
    p = [total(0.53 + np.sqrt(0.53 * 0.47 / 5000) * rng.standard_normal(5), 0)["p_value"] for _ in range(60)]
    assert 0.4 < np.mean(p) < 0.6 and (np.array(p) < 0.1).mean() < 0.2


def test_spread_of_reshuffles():
    assert total([0.5, 0.6, 0.55], 0.016)["reshuffles_spread"] == pytest.approx(0.016, rel=0.3)


# ------------------------------------------------------------------------------------------------ pupils


def test_pixel_errors_of_a_perfect_wavefront(errors):
    mean = errors.groupby("case")["relative"].mean()
    assert set(mean.index) == set(audit.PUPIL_CASES) and len(errors) == 2 * len(mean)
    assert 0.2 < mean["edge not cut"] < 0.5
    assert 0.3 < mean["edge not cut, smoothed over 3 samples"] < 0.9
    assert mean["smoothed over 3 samples"] < mean["edge not cut, smoothed over 3 samples"]
    assert 0.01 < mean["wavelengths snapped once, not twice"] < 0.03
    assert 0.07 < mean["exact wavelengths for snapped ones"] < 0.13


def test_only_one_bin_is_snapped_twice():
    once, twice = audit._SnappedOnce(wavelengths="wf-psf"), Optics(wavelengths="wf-psf")
    assert np.flatnonzero(once.wavelengths_um != twice.wavelengths_um).tolist() == [3]
    assert (once.periods[3], twice.periods[3]) == (918, 916)


# ---------------------------------------------------------------------------------------------- findings


def confirming():
    """Metrics that confirm every finding."""
    wide = {"accuracy": 0.53, "accuracy_lo": 0.52, "accuracy_hi": 0.54, "within_one": 0.9, "top_two": 0.8}
    wide |= {f"{name}_{end}": wide[name] for name in ("within_one", "top_two") for end in ("lo", "hi")}
    wide |= {"within_less_top": 0.1, "within_less_top_lo": 0.08}
    lost = {"accuracy_loss": 0.03, "accuracy_loss_lo": 0.02, "accuracy_loss_hi": 0.04}
    level = {"accuracy_loss": -0.01, "accuracy_loss_lo": -0.02, "accuracy_loss_hi": 0.0}
    low, high = ({"accuracy": v, "accuracy_lo": v - 0.02, "accuracy_hi": v + 0.02} for v in (0.46, 0.60))
    spreads = {"reshuffles_spread": 0.015, "standard_error": 0.0158, "fields_spread": 0.016, "p_value": 0.01}
    rows = {
        ("top two", audit.SVM): wide,
        ("top two", audit.LIKELIHOOD): wide,
        ("flux", audit.SVM_MATCHED): wide | lost,
        ("flux", audit.SVM_SUM): wide | lost,
        ("flux", audit.LIKELIHOOD_FREE): wide | lost,
        ("pupil", "edge not cut"): {"relative": 0.3},
        ("pupil", "edge not cut, smoothed over 3 samples"): {"relative": 0.5},
        ("pupil", "exact wavelengths for snapped ones"): {"relative": 0.02},
        ("pupil", "wavelengths snapped once, not twice"): {"relative": 0.02},
        ("labels", audit.labelled(50)): {"accuracy": 0.3, "accuracy_lo": 0.29, "accuracy_hi": 0.31},
        ("labels", audit.SVM): wide,
        ("labels", audit.LIKELIHOOD): wide | level,
        ("labels", audit.OTHER_FIELD): wide | level,
        ("reshuffles", "SVM, all fields"): spreads | {"standard_error_mean": 0.007},
        ("protocol", "signal-to-noise"): {"matched_squared_by_snr": 1024.0},
        ("protocol", "CNN"): {"trained": 6154.0},
        ("SNR", f"{audit.SVM}, SNR 20-50"): low,
        ("SNR", f"{audit.SVM}, SNR 80-110"): high,
    }
    extra = {"lowest": 0.1, "highest": 0.9, "matched_lowest": 143.0, "matched_highest": 336.0}
    frame = [{"experiment": e, "model": m} | extra | scores for (e, m), scores in rows.items()]
    return pd.DataFrame(frame)


CONTRARY = [
    (0, "top two", audit.SVM, {"within_less_top_lo": -0.01}),
    (0, "top two", audit.SVM, {"top_two": 0.905}),
    (1, "top two", audit.LIKELIHOOD, {"within_one": 0.7}),
    (2, "flux", audit.SVM_MATCHED, {"accuracy_loss_lo": -0.01}),
    (3, "flux", audit.SVM_SUM, {"accuracy_loss_lo": -0.01}),
    (4, "flux", audit.LIKELIHOOD_FREE, {"accuracy_loss_lo": -0.01}),
    (5, "pupil", "edge not cut", {"relative": 0.1}),
    (6, "pupil", "edge not cut, smoothed over 3 samples", {"relative": 0.9}),
    (7, "pupil", "exact wavelengths for snapped ones", {"relative": 0.1}),
    (8, "pupil", "wavelengths snapped once, not twice", {"relative": 0.001}),
    (9, "labels", audit.labelled(50), {"accuracy_hi": 0.42}),
    (10, "labels", audit.LIKELIHOOD, {"accuracy_loss_hi": 0.025}),
    (11, "labels", audit.OTHER_FIELD, {"accuracy_loss_hi": 0.035}),
    (12, "reshuffles", "SVM, all fields", {"reshuffles_spread": 0.03}),
    (12, "reshuffles", "SVM, all fields", {"reshuffles_spread": 0.01}),
    (13, "reshuffles", "SVM, all fields", {"p_value": 0.2}),
    (14, "protocol", "signal-to-noise", {"matched_squared_by_snr": 32.0}),
    (15, "SNR", f"{audit.SVM}, SNR 80-110", {"accuracy_lo": 0.45}),
    (16, "protocol", "CNN", {"trained": 10_000.0}),
]


def test_findings_that_are_confirmed():
    found = audit_findings.findings(confirming())
    assert found["confirmed"].all() and len(found) == 17 == len({row for row, *_ in CONTRARY})
    assert found["check"].tolist() == sorted(found["check"]) and set(found["check"]) == set(range(1, 7))
    assert found["found"][2] == "3.0 [2.0, 4.0] points"
    assert not found.isna().any(axis=None)


@pytest.mark.parametrize(("row", "experiment", "model", "changes"), CONTRARY)
def test_findings_come_out_the_other_way(row, experiment, model, changes):
    metrics = confirming()
    at = (metrics["experiment"] == experiment) & (metrics["model"] == model)
    assert at.sum() == 1
    metrics.loc[at, list(changes)] = list(changes.values())
    confirmed = audit_findings.findings(metrics)["confirmed"]
    assert confirmed.index[~confirmed].tolist() == [row]


def test_a_missing_check_is_named():
    metrics = confirming()
    with pytest.raises(KeyError, match="SVM, 50 labels"):
        audit_findings.findings(metrics[metrics["model"] != audit.labelled(50)])


def test_findings_of_a_real_run(metrics):
    found = audit_findings.findings(metrics)
    assert len(found) == 17
    trained = select(metrics, experiment="protocol", model="CNN")
    assert trained["trained"] == 6154
    assert not found["confirmed"][14]  # stamps of 16 x 16 pixels: 256, not 1024
    assert found["confirmed"][3] and found["confirmed"][9]


@pytest.mark.parametrize("name", ["top_two", "flux", "pupil", "label", "field", "snr"])
def test_figures(metrics, name):
    figure = getattr(audit_plots, f"{name}_figure")(metrics)
    figure.canvas.draw()
    for ax in figure.axes:
        assert ax.get_xlabel() and ax.get_legend()
    plt.close(figure)


def test_the_published_numbers_stand_in_the_label_figure(metrics):
    figure = audit_plots.label_figure(metrics)
    lines = {line.get_label().split(":")[0]: line for line in figure.axes[0].lines}
    x, y = lines["published"].get_data()
    np.testing.assert_array_equal(x, [50, 100, 200, 500, 1000, 2000])
    np.testing.assert_allclose(y, [41.0, 45.0, 49.8, 51.2, 52.5, 52.9])
    plt.close(figure)
