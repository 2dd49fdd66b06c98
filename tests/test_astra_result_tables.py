"""Tables of scores, of gains and of coverage: their order, their words and their numbers."""

import numpy as np
import pandas as pd
import pytest

from astro_utils.astra import result_tables as tables
from astro_utils.results import metric_row, read_metrics, write_metrics


def row(experiment, model, **metrics):
    return metric_row(
        profile="smoke",
        sky="simulated",
        experiment=experiment,
        model=model,
        n_train=100,
        n_test=50,
        seeds=2,
        metrics=metrics,
    )


def entry(value, lo, hi):
    return {"value": value, "lo": lo, "hi": hi}


def against(model, c_ratio, ratio):
    return row("main, against ours", model, c_error_ratio=entry(*c_ratio), error_ratio=entry(*ratio))


ABOVE = (2.0, 1.5, 2.5)


@pytest.fixture
def metrics(tmp_path):
    """Rows as the results page reads them; the ceiling and the version of ours have the least errors."""
    rows = [
        row("main", "mean spectrum", r2_continuum=0.0, r2=0.0, z_eta_05=0.25, photometry_mad=0.1),
        row("main", "cannot say", r2=0.1),
        row("main", "template, true redshift (ceiling)", r2_continuum=0.97, r2=0.9),
        row("main", "ours", r2_continuum={"value": 0.95, "lo": 0.94, "hi": 0.96, "sd": 0.002}, r2=0.7),
        row("main", "ASTRA v1, mended", r2_continuum=0.9, r2=0.6, parameters=12_340_000),
        against("mean spectrum", (20.0, 18.0, 22.0), (4.0, 3.5, 4.5)),
        against("ASTRA v1, mended", ABOVE, (1.25, 1.125, 1.375)),
        against("template, true redshift (ceiling)", (0.5, 0.4, 0.6), (0.4, 0.3, 0.5)),
        against("ours, one draw", (0.9, 0.8, 0.95), (1.0, 0.9, 1.1)),
        row(
            "coverage", "all pixels", coverage_68=entry(0.65, 0.64, 0.66), coverage_95=entry(0.95, 0.94, 0.96)
        ),
        row(
            "coverage",
            "wavelength 3800-4150",
            coverage_68=entry(0.68, 0.67, 0.69),
            coverage_95=entry(0.915, 0.90, 0.93),
        ),
    ]
    return read_metrics(write_metrics(tmp_path / "metrics.json", rows))


def changed(metrics, model, **values):
    """The same rows with other numbers for one rival."""
    out = metrics.copy()
    chosen = (out["model"] == model) & (out["experiment"] == "main, against ours")
    assert chosen.sum() == 1
    for name, value in values.items():
        out.loc[chosen, name] = value
    return out


def test_scores_are_ordered_by_the_continuum(metrics):
    table = tables.score_table(metrics)
    assert list(table.index) == [
        "template, true redshift (ceiling)",
        "ours",
        "ASTRA v1, mended",
        "mean spectrum",
        "cannot say",  # it has no such score
    ]
    assert table.loc["ours", "R², continuum"] == "0.950 ± 0.002 [0.940, 0.960]"
    assert table.loc["cannot say", "R², continuum"] == "–"


def test_the_columns_of_every_table(metrics):
    lines = tables.score_table(metrics, columns=tables.LINES)
    assert lines.loc["mean spectrum", "z, |Δz| > 0.05 (1 + z) [%]"] == "25.0"
    use = tables.score_table(metrics, columns=tables.USE)
    assert use.loc["mean spectrum", "photometry, σ [%]"] == "10.00"
    assert use.loc["ASTRA v1, mended", "parameters [10⁶]"] == "12.34"
    assert use.loc["ours", "parameters [10⁶]"] == "–"
    free = tables.score_table(
        metrics.rename(columns={"r2_continuum": "r2_continuum", "r2": "r2_free"}), columns=tables.NOISE_FREE
    )
    assert free.loc["ours", "R², all pixels"] == "0.700"


def test_no_metric_is_in_two_tables_and_no_heading_twice_in_one():
    every = (tables.SHAPE, tables.NOISE_FREE, tables.LINES, tables.USE)
    names = [name for columns in every for name in columns]
    assert len(names) == len(set(names)) == 27
    for columns in every:
        headings = [heading for heading, _, _ in columns.values()]
        assert len(headings) == len(set(headings))


def test_an_experiment_that_is_not_there(metrics):
    with pytest.raises(ValueError, match=r"no rows of experiment 'mian'; there are \['coverage', 'main'"):
        tables.score_table(metrics, "mian")
    with pytest.raises(ValueError, match="no rows of experiment 'coverage, against ours'"):
        tables.gain_table(metrics, "coverage")
    with pytest.raises(ValueError, match="no rows of experiment 'coverage'"):
        tables.coverage_table(metrics[metrics["experiment"] == "main"])


def test_ceilings_and_versions_of_ours_are_no_rivals():
    models = pd.Series(
        ["ours", "ours, true redshift (ceiling)", "template, true redshift (ceiling)", "yours"]
    )
    assert tables.is_rival(models).tolist() == [False, False, False, True]


def test_ours_is_ahead_of_every_rival(metrics):
    table = tables.gain_table(metrics)
    assert list(table.index) == ["continuum", "all pixels"]
    line = table.loc["all pixels"]
    assert line["beaten beyond the interval"] == "2 of 2"
    assert line["nearest rival"] == "ASTRA v1, mended"
    assert line["its error over ours"] == "1.250 [1.125, 1.375]"
    assert (table["verdict"] == "ahead of every rival").all()


@pytest.mark.parametrize(
    ("bounds", "beaten", "verdict"),
    [
        ((1.001, 1.4), "2 of 2", "ahead of every rival"),
        ((1.0, 1.4), "1 of 2", "level with ASTRA v1, mended"),
        ((0.7, 1.0), "1 of 2", "level with ASTRA v1, mended"),
        ((0.7, 0.999), "1 of 2", "behind ASTRA v1, mended"),
        ((np.nan, np.nan), "1 of 2", "level with ASTRA v1, mended"),
    ],
)
def test_the_verdict_turns_where_the_interval_touches_one(metrics, bounds, beaten, verdict):
    lo, hi = bounds
    table = tables.gain_table(changed(metrics, "ASTRA v1, mended", error_ratio_lo=lo, error_ratio_hi=hi))
    assert table.loc["all pixels", "beaten beyond the interval"] == beaten
    assert table.loc["all pixels", "verdict"] == verdict
    assert table.loc["continuum", "verdict"] == "ahead of every rival"  # another score


def test_behind_one_and_level_with_another(metrics):
    both = changed(
        metrics, "ASTRA v1, mended", c_error_ratio=0.9, c_error_ratio_lo=0.8, c_error_ratio_hi=0.95
    )
    both = changed(both, "mean spectrum", c_error_ratio_lo=0.99)
    line = tables.gain_table(both).loc["continuum"]
    assert line["verdict"] == "behind ASTRA v1, mended; level with mean spectrum"
    assert line["beaten beyond the interval"] == "0 of 2"


def test_a_comparison_without_rivals(metrics):
    only = metrics[~metrics["model"].isin(["mean spectrum", "ASTRA v1, mended"])]
    with pytest.raises(ValueError, match="no rival of ours in experiment 'main'"):
        tables.gain_table(only)


def test_ratios_of_every_method_and_their_marks(metrics):
    table = tables.ratio_table(metrics)
    assert list(table.index) == [
        "template, true redshift (ceiling)",
        "ours, one draw",
        "ASTRA v1, mended",
        "mean spectrum",
    ]
    assert table["all pixels, ours is"].tolist() == ["a ceiling", "a version of ours", "ahead", "ahead"]
    assert table.loc["mean spectrum", "continuum, error over ours"] == "20.000 [18.000, 22.000]"


def test_coverage_in_and_out_of_the_corridor(metrics):
    table = tables.coverage_table(metrics)
    assert list(table.index) == ["all pixels", "3800–4150 Å"]
    assert table.loc["all pixels", "68 % interval covers [%]"] == "65.0 [64.0, 66.0]"
    assert table["within 3 points"].tolist() == ["yes", "no"]  # 3 points are still within


def test_noise_free_r2_by_hand():
    sums = np.array([[2.0, 5.0, 1.0], [4.0, 8.0, 2.0]])
    value, low, high = tables.noise_free_r2(sums)
    assert value == pytest.approx(1 - (6 - 3) / (13 - 3))
    # Two galaxies, drawn with replacement: the first twice, the second twice, or both.
    assert low == pytest.approx(1 - 2 / 6)
    assert high == pytest.approx(1 - 1 / 4)


def test_noise_free_r2_without_signal():
    assert np.isnan(tables.noise_free_r2(np.array([[2.0, 1.0, 1.0]] * 3))).all()


def test_the_interval_of_r2_narrows_with_more_galaxies():
    rng = np.random.default_rng(0)
    sums = np.stack([rng.uniform(0.1, 0.5, 3200), rng.uniform(1, 2, 3200), np.full(3200, 0.05)], 1)

    def width(n):
        value, low, high = tables.noise_free_r2(sums[:n])
        assert low < value < high
        return high - low

    assert width(3200) == pytest.approx(width(50) / 8, rel=0.25)
