"""Figures of the results page: what each shows, where, and under which name."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from astro_utils.astra import result_plots as plots
from astro_utils.astra.result_tables import noise_free_r2
from astro_utils.figures import use_style

METHODS = ["ours", "mean spectrum"]


@pytest.fixture(autouse=True)
def style():
    with plt.rc_context():
        use_style()
        yield
    plt.close("all")


@pytest.fixture(scope="module")
def gallery():
    """Three galaxies with a line at H alpha; the third has a gap in its spectrum."""
    rng = np.random.default_rng(0)
    wave, z = np.geomspace(3800, 9200, 400), np.array([0.05, 0.1, 0.2])
    mean = 1 + 2 * np.exp(-0.5 * ((wave - 6564.6 * (1 + z[:, None])) / 20) ** 2)
    ivar = np.full(mean.shape, 400.0)
    ivar[2, 100:150] = 0
    flux = np.where(ivar > 0, mean + 0.05 * rng.normal(size=mean.shape), np.nan)
    y, x = np.mgrid[:64, :64] - 31.5
    images = np.exp(-np.hypot(x, y) / 5) * np.array([0.2, 1, 2, 3, 3])[:, None, None] + np.zeros((3, 1, 1, 1))
    bands = {
        f"{side}{level}": mean + sign * width
        for level, width in ((68, 0.1), (95, 0.2))
        for side, sign in (("low", -1), ("high", 1))
    }
    return bands | {
        "wavelength": wave,
        "images": images,
        "flux": flux,
        "ivar": ivar,
        "mean": mean,
        "sharp": mean + 0.01,
        "astra": 0.9 * mean,
        "z": z,
        "r": np.array([15.0, 16.25, 17.5]),
        "z_phot": z + 0.01,
        "label": np.array(["good, early type", "good, late type", "poor"]),
    }


def made(n=400, seeds=2):
    """Galaxies whose R2 is .8 below z = .1 and .4 above for ours, 0 for the mean."""
    rng = np.random.default_rng(1)
    z, r = rng.uniform(0, 0.2, n), rng.uniform(14, 17.7, n)
    lines = []
    for method in METHODS:
        for seed in range(seeds):
            # Of the total without noise, .9; with noise, .1 more on both sums.
            share = 1.0 if method == "mean spectrum" else np.where(z < 0.1, 0.2, 0.6)
            lines.append(
                pd.DataFrame(
                    {
                        "method": method,
                        "seed": seed,
                        "z": z,
                        "r": r,
                        "red": np.arange(n) % 2 == 0,
                        "error": 0.9 * share + 0.1,
                        "total": 1.0,
                        "noise": 0.1,
                        "c_error": 0.5 * 0.9 * share + 0.1,
                        "c_total": 1.0,
                        "c_noise": 0.1,
                        "chi2": 2.0 + seed if method == "ours" else 8.0,
                        "z_phot": z + 0.02 * (1 + 4 * seed) * rng.normal(size=n),
                        "z_recovered": 0.99 * z,
                    }
                )
            )
    table = pd.concat(lines, ignore_index=True)
    return table.assign(method=table["method"].astype("category"))


def points(axes):
    """Method to the points (n, 2) that error bars are drawn about."""
    return {bars.get_label(): bars.lines[0].get_xydata() for bars in axes.containers}


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_gallery_has_an_image_and_two_panels_for_each_galaxy(gallery):
    figure = plots.gallery_figure(gallery, [2, 0], "Test galaxies")
    assert len(figure.axes) == 6
    picture, upper, lower = figure.axes[:3]
    assert picture.get_title() == "poor"
    assert picture.images[0].get_array().shape == (64, 64, 3)
    assert upper.get_title(loc="left") == "$z$ = 0.200, median of $p(z)$ 0.210, $r$ = 17.50"
    drawn = {line.get_label(): line.get_ydata() for ax in (upper, lower) for line in ax.lines}
    np.testing.assert_array_equal(drawn["posterior mean"], gallery["mean"][2])
    np.testing.assert_array_equal(drawn["one draw"], gallery["sharp"][2])
    np.testing.assert_array_equal(drawn["ASTRA, mended"], gallery["astra"][2])
    legend = figure.legends[0]
    named = [text.get_text() for text in legend.get_texts()]
    assert sorted(named) == sorted(
        ["95 %", "68 %", "observed, smoothed", "posterior mean", "one draw", "ASTRA, mended"]
    )
    assert legend.get_title().get_text().startswith("Test galaxies\n$F_\\lambda$ at $r$ = 1 nanomaggy")
    assert figure.axes[3].get_title() == "good, early type"
    # Only the last panel names its wavelengths.
    shown = [ax.xaxis.get_tick_params()["labelbottom"] for ax in figure.axes if not ax.images]
    assert shown == [False, False, False, True]
    assert figure.axes[5].get_xlabel() == "observed wavelength [Å, vacuum]"


def test_a_red_galaxy_looks_red(gallery):
    picture = plots.gallery_figure(gallery, [0]).axes[0].images[0].get_array()
    red, green, blue = picture[34, 34].astype(int)
    assert red > green > blue
    assert picture[32, 32].sum() > picture[2, 2].sum()


def test_bands_of_the_gallery(gallery):
    upper = plots.gallery_figure(gallery, [1]).axes[1]
    for band, width in zip(upper.collections, (0.2, 0.1), strict=True):
        y = band.get_paths()[0].vertices[:, 1]
        assert y.min() == pytest.approx(1 - width, abs=1e-6)
        assert y.max() == pytest.approx(gallery["mean"][1].max() + width)


def test_lines_are_marked_at_the_true_redshift(gallery):
    upper, lower = plots.gallery_figure(gallery, [1]).axes[1:3]
    assert set(texts(upper)) == {*plots.EMISSION, *plots.ABSORPTION}
    assert not lower.texts
    at = {text.get_text(): text.get_position()[0] for text in upper.texts}
    assert at["H$\\alpha$"] == pytest.approx(6564.6 * 1.1)
    assert at["K"] == pytest.approx(3934.8 * 1.1)
    ticks = [line.get_xdata()[0] for line in lower.lines if len(line.get_xdata()) == 2]
    assert sorted(ticks) == pytest.approx(sorted(at.values()))


def test_lines_outside_a_panel_are_not_marked(gallery):
    far = gallery | {"z": np.array([0.45, 0.0, 0.0])}
    names = texts(plots.gallery_figure(far, [0]).axes[1])
    assert "H$\\alpha$" not in names and "K" in names
    assert "[O II]" not in texts(plots.gallery_figure(far, [1]).axes[1])  # 3728 is below 3800


def test_the_observed_spectrum_is_smoothed_with_its_errors_and_has_gaps(gallery):
    upper = plots.gallery_figure(gallery, [2]).axes[1]
    observed = next(line for line in upper.lines if line.get_label() == "observed, smoothed").get_ydata()
    gap = np.flatnonzero(np.isnan(observed))
    assert gap.tolist() == list(range(103, 147))  # 7 pixels reach 3 into it from either side
    kept = np.r_[20:90, 160:380]
    away = np.abs(gallery["wavelength"][kept] - 6564.6 * 1.2) > 200
    noise = (observed - gallery["mean"][2])[kept][away]
    assert noise.std() == pytest.approx(0.05 / np.sqrt(7), rel=0.2)
    weighted = gallery | {"ivar": gallery["ivar"].copy(), "flux": gallery["flux"].copy()}
    weighted["flux"][0, 200], weighted["ivar"][0, 200] = 1e3, 1e-9
    line = plots.gallery_figure(weighted, [0]).axes[1].lines
    assert np.nanmax(next(one for one in line if one.get_label() == "observed, smoothed").get_ydata()) < 4


def test_trends_have_the_r2_of_every_bin():
    figure = plots.trend_figure(made(), METHODS)
    axes = np.array(figure.axes).reshape(2, 3)
    against_z = points(axes[1, 1])
    assert set(against_z) == set(METHODS)
    assert len(against_z["ours"]) == 8
    x, y = against_z["ours"].T
    whole = np.abs(x - 0.1) > 0.015  # without the bin about .1
    np.testing.assert_allclose(y[whole], np.where(x < 0.1, 0.8, 0.4)[whole], atol=1e-12)
    np.testing.assert_allclose(against_z["mean spectrum"][:, 1], 0, atol=1e-12)
    # The continuum of ours has half the error.
    y = points(axes[0, 1])["ours"][:, 1]
    np.testing.assert_allclose(y[whole], np.where(x < 0.1, 0.9, 0.7)[whole], atol=1e-12)
    assert [ax.get_xlabel() for ax in axes[1]] == ["$r$ [mag]", "redshift", "colour"]
    assert axes[0, 0].get_ylabel() == "noise-free $R^2$, continuum"
    assert axes[1, 0].get_ylabel() == "noise-free $R^2$, all pixels"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == METHODS


def test_red_and_blue_galaxies_apart():
    table = made()
    ours = table["method"] == "ours"
    table.loc[ours, "error"] = np.where(table.loc[ours, "red"], 0.19, 0.55)
    axes = plots.trend_figure(table, METHODS).axes
    colour = points(axes[5])["ours"]
    np.testing.assert_allclose(colour[:, 1], [0.5, 0.9])  # blue, red
    assert [round(x) for x in colour[:, 0]] == [0, 1]
    assert [label.get_text() for label in axes[5].get_xticklabels()] == ["blue", "red"]


def test_seeds_of_a_galaxy_are_one_galaxy():
    table = made(n=55, seeds=3)  # 165 lines
    table["error"] = np.random.default_rng(0).lognormal(-1.5, 1.5, len(table))
    axes = plots.trend_figure(table, ["ours"]).axes
    assert len(points(axes[3])["ours"]) == 1  # 55 galaxies are not two bins of 30
    assert not len(points(axes[5])["ours"])  # 28 red and 27 blue ones are too few
    mean = table.query("method == 'ours'").groupby("z")[["error", "total", "noise"]].mean()
    value, low, high = noise_free_r2(mean.to_numpy())
    np.testing.assert_allclose(points(axes[3])["ours"][0, 1], value)
    bars = axes[3].containers[0].lines[2][0].get_segments()[0][:, 1]
    np.testing.assert_allclose(sorted(bars), [low, high])
    assert low < value < high and abs(high + low - 2 * value) > 0.01 * (high - low)


def test_what_is_far_below_is_cut_off():
    table = made()
    table.loc[table["method"] == "mean spectrum", "error"] = 5.0
    axes = plots.trend_figure(table, METHODS).axes
    assert axes[3].get_ylim()[0] == -0.5
    assert axes[0].get_ylim()[0] == pytest.approx(0.45)  # the continuum is nowhere below .5


def test_redshifts_of_the_spectrum_beside_the_photometric_ones():
    table = made()
    table.loc[0, "z_recovered"] = 0.9
    table.loc[1, "z_recovered"] = np.nan
    left, right = plots.redshift_figure(table, "ours", "boosted trees").axes
    assert left.get_title() == "from the spectrum of “ours”"
    assert right.get_title() == "boosted trees"
    assert left.get_xlim() == left.get_ylim() == (0, 0.2)
    assert "1 of 799 outside the panel" in left.texts[0].get_text()
    drawn = {line.get_label(): line for line in left.lines}
    assert len(drawn["red"].get_xdata()) == 400 and len(drawn["blue"].get_xdata()) == 399
    part = table[table["method"] == "ours"]
    dz = (part["z_phot"] - part["z"]) / (1 + part["z"])
    by_seed = [1.4826 * np.median(np.abs(one - np.median(one))) for _, one in dz.groupby(part["seed"])]
    assert f"= {np.mean(by_seed):.4f}" in right.texts[0].get_text()
    (line,) = (one for one in left.lines if one.get_label().startswith("±"))
    np.testing.assert_allclose(line.get_ydata() - line.get_xdata(), 0.05 * (1 + line.get_xdata()))


def test_chi2_of_every_method():
    (axes,) = plots.chi2_figure(made(), METHODS).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "ours (2.50)",  # 2 and 3 for the two seeds
        "mean spectrum (8.00)",
    ]
    ours, mean = axes.patches
    values, edges, _ = mean.get_data()
    assert values.sum() == pytest.approx(100)
    filled = np.flatnonzero(values)
    assert len(filled) == 1 and edges[filled[0]] < 8 <= edges[filled[0] + 1] * (1 + 1e-9)
    assert ours.get_data()[0].sum() == pytest.approx(100)
    assert axes.get_xscale() == "log" and axes.get_xlim()[0] < 1


def test_chi2_beyond_the_edges_is_counted():
    table = made()
    table.loc[0, "chi2"] = 1e6
    ours, _ = plots.chi2_figure(table, METHODS).axes[0].patches
    assert ours.get_data()[1][-1] < 1e3
    assert ours.get_data()[0].sum() == pytest.approx(100)


def test_residuals_of_every_method():
    wave = np.linspace(3500, 7000, 300)
    parts = [
        pd.DataFrame({"method": m, "wavelength": wave, "mean": k, "low": k - 0.1, "high": k + 0.2})
        for m, k in zip(METHODS, (0.0, 0.05), strict=True)
    ]
    upper, lower = plots.residual_figure(pd.concat(parts).sample(frac=1, random_state=0), METHODS).axes
    assert [ax.get_title(loc="left") for ax in (upper, lower)] == METHODS
    assert upper.get_xlim() == (3500, 7000)
    line = lower.lines[0]
    np.testing.assert_allclose(line.get_xdata(), wave)  # in order again
    np.testing.assert_allclose(line.get_ydata(), 0.05)
    y = lower.collections[0].get_paths()[0].vertices[:, 1]
    assert (y.min(), y.max()) == pytest.approx((-0.05, 0.25))
    assert set(texts(upper)) == {*plots.EMISSION, *plots.ABSORPTION} and not lower.texts
    assert lower.get_xlabel() == "rest-frame wavelength [Å, vacuum]"
    assert upper.get_figure().get_supylabel() == "(observed − predicted) / mean flux"


def test_coverage_of_every_part():
    rows = pd.DataFrame(
        [
            ("coverage", "all pixels", 0.69, 0.68, 0.705, 0.94, 0.93, 0.945),
            ("coverage", "wavelength 3800-4150", 0.6, 0.58, 0.61, 0.96, 0.955, 0.97),
            ("main", "ours", *6 * [np.nan]),
        ],
        columns=["experiment", "model"]
        + [f"coverage_{level}{suffix}" for level in (68, 95) for suffix in ("", "_lo", "_hi")],
    )
    left, right = plots.coverage_figure(rows).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["all pixels", "3800–4150 Å"]
    np.testing.assert_allclose(left.containers[0].lines[0].get_xydata(), [[69, 1], [60, 0]])
    np.testing.assert_allclose(right.containers[0].lines[2][0].get_segments()[1][:, 0], [95.5, 97])
    for ax, level in ((left, 68), (right, 95)):
        corridor = ax.patches[0]
        assert (corridor.get_x(), corridor.get_width()) == pytest.approx((level - 3, 6))
        assert ax.get_title() == f"{level} % intervals"


@pytest.mark.parametrize("draw", [plots.trend_figure, plots.chi2_figure])
def test_an_unknown_method(draw):
    with pytest.raises(ValueError, match=r"no method 'theirs'; there are \['mean spectrum', 'ours'\]"):
        draw(made(), ["ours", "theirs"])


def test_more_methods_than_colours():
    with pytest.raises(ValueError, match="8 methods; expected at most 7"):
        plots.chi2_figure(made(), ["ours"] * 8)
