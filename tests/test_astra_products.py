"""What ASTRA's training page hands on: coverage, residuals, examples, galaxies; figures of the sample."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from astra_sample import galaxies, predicted, task
from matplotlib import pyplot as plt
from scipy.stats import norm

from astro_utils.astra import products, sample_plots
from astro_utils.astra.galaxy_scores import shape_table
from astro_utils.astra.grid import SDSS_GRID
from astro_utils.astra.methods import Task
from astro_utils.astra.photometric_decoder import ConformalBand
from astro_utils.astra.products import (
    coverage_rows,
    examples,
    galaxy_lines,
    load_gallery,
    redshift_row,
    residual_table,
    save_gallery,
)
from astro_utils.metrics import redshift_scores
from astro_utils.results import read_metrics, write_metrics
from astro_utils.samples import Spectra

ROWS = {"profile": "smoke", "n_bootstrap": 40}
WAVELENGTH = SDSS_GRID.wavelength


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def with_spectra(flux, ivar):
    """Return the task as if all galaxies had been observed so: (N, L) of all galaxies."""
    spectra = Spectra(WAVELENGTH, np.asarray(flux, np.float32), np.asarray(ivar, np.float32))
    return Task(dataclasses.replace(galaxies(), spectra=spectra), task().parts)


def gaussian(seed=0):
    """Return a task of known signal and noise, and an answer: the signal, with half of the variance."""
    rng, n = np.random.default_rng(seed), len(galaxies())
    signal = np.tile(1 + 0.2 * np.sin(WAVELENGTH / 300), (n, 1))
    sigma = rng.uniform(0.05, 0.4, (n, 1)) * np.linspace(1.5, 0.7, len(WAVELENGTH))
    variance, noise = 0.5 * sigma**2, 0.5 * sigma**2
    ivar = np.where(rng.random(signal.shape) < 0.1, 0, 1 / noise)
    nonsense = np.where(rng.random(signal.shape) < 0.5, signal, 1e5)  # within the interval, or beyond
    flux = np.where(ivar > 0, signal + sigma * rng.normal(size=signal.shape), nonsense)
    one = with_spectra(flux, ivar)
    rows = one.parts.test
    answer = dataclasses.replace(predicted(), mean=signal[rows], variance=variance[rows])
    return one, answer, (signal, variance)


class Normal:
    """Intervals of Gaussian noise, exact but for a factor on their width in some pixels."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def interval(self, mean, variance, ivar, level):
        noise = np.where(ivar > 0, 1 / np.where(ivar > 0, ivar, 1), 0)
        half = self.factor * norm.ppf(0.5 + level / 2) * np.sqrt(variance + noise)
        return mean - half, mean + half


# -------------------------------------------------------------------------------------------------- coverage


def test_intervals_of_known_noise_have_their_coverage(tmp_path):
    one, answer, _ = gaussian()
    rows = coverage_rows(one, Normal(), answer, **ROWS)
    assert rows[0]["model"] == "all pixels" and len(rows) == 9
    for row in rows:
        assert row["experiment"] == "coverage" and row["n_test"] == len(one.test)
        for level in (68, 95):
            assert row[f"coverage_{level}"] == pytest.approx(level / 100, abs=0.015)
            assert row[f"coverage_{level}_lo"] <= row[f"coverage_{level}"] <= row[f"coverage_{level}_hi"]
    assert len(read_metrics(write_metrics(tmp_path / "metrics.json", rows))) == 9


def test_coverage_is_given_where_it_is():
    one, answer, _ = gaussian()
    part = np.arange(len(WAVELENGTH)) * 8 // len(WAVELENGTH)
    found = coverage_rows(one, Normal(np.where(part == 3, 0.0, 1.0)), answer, **ROWS)
    assert [row["coverage_95"] < 0.01 for row in found[1:]] == [False] * 3 + [True] + [False] * 4
    assert found[0]["coverage_95"] == pytest.approx(0.95 * 7 / 8, abs=0.01)
    low, high = WAVELENGTH[part == 3][[0, -1]]
    assert found[4]["model"] == f"wavelength {low:.0f}-{high:.0f}"


def test_pixels_without_a_measurement_are_not_counted():
    one, answer, _ = gaussian()
    truth = one.galaxies.spectra
    assert (truth.flux[truth.ivar == 0] == 1e5).mean() == pytest.approx(0.5, abs=0.01)
    ivar = truth.ivar.copy()
    ivar[one.parts.test[:4], : len(WAVELENGTH) // 8] = 0  # four galaxies have no blue end
    found = coverage_rows(with_spectra(truth.flux, ivar), Normal(), answer, **ROWS)
    assert [row["n_test"] for row in found] == [len(one.test), len(one.test) - 4] + [len(one.test)] * 7
    assert found[1]["coverage_68"] == pytest.approx(0.68, abs=0.015)


def test_calibrated_intervals_have_their_coverage():
    one, answer, (signal, variance) = gaussian()
    rows = np.r_[one.parts.train, one.parts.calibration]
    truth = one.galaxies.select(rows).spectra
    band = ConformalBand(products.LEVELS).fit(truth, signal[rows], 4 * variance[rows])
    wide = dataclasses.replace(answer, variance=4 * answer.variance)
    for row in coverage_rows(one, band, wide, **ROWS):
        assert row["coverage_68"] == pytest.approx(0.68, abs=0.03)
        assert row["coverage_95"] == pytest.approx(0.95, abs=0.02)


def test_scores_of_the_density_are_those_of_its_median():
    z = predicted().redshifts
    row = redshift_row(task(), z, **ROWS)
    expected = redshift_scores(np.median(z, axis=1), task().test.z)
    assert row["experiment"] == "direct photo-z" and row["n_test"] == len(z)
    for name in ("sigma_mad", "bias", "eta_05"):
        assert row[f"z_{name}"] == pytest.approx(expected[name])
        assert row[f"z_{name}_lo"] <= row[f"z_{name}"] <= row[f"z_{name}_hi"]
    (truth,) = [redshift_row(task(), task().test.z[:, None] + np.array([-1, 0, 0.2]), **ROWS)]
    assert truth["z_sigma_mad"] == 0


# ------------------------------------------------------------------------------------------------- residuals

LINE = 5100.0


def with_a_line(scale=1.0, gaps=0.0):
    """Galaxies with a line at one place at rest, and what lacks it."""
    z = galaxies().z[:, None]
    level = scale * np.ones((len(z), 1))
    flux = level * (1 + 0.5 * np.exp(-0.5 * ((WAVELENGTH / (1 + z) - LINE) / 8) ** 2))
    masked = np.random.default_rng(3).random(flux.shape) < gaps
    one = with_spectra(np.where(masked, 1e4, flux), np.where(masked, 0, 100.0))
    return one, (level * np.ones(flux.shape))[one.parts.test], flux[one.parts.test]


def test_a_line_that_predictions_lack_is_found_at_rest():
    one, flat, full = with_a_line()
    assert np.ptp(one.test.z) > 0.1  # far apart as observed
    found = residual_table(one, {"flat": flat, "full": full, "double": 2 * full})
    assert set(found) == {"method", "wavelength", "mean", "low", "high"}
    assert list(found["method"].cat.categories) == sorted(["flat", "full", "double"])
    of = {name: part.reset_index(drop=True) for name, part in found.groupby("method", observed=True)}
    line = of["flat"].loc[of["flat"]["mean"].idxmax()]
    assert line["wavelength"] == pytest.approx(LINE, abs=3)
    assert line["mean"] == pytest.approx(0.5, abs=0.05) and line["high"] - line["low"] < 0.1
    away = np.abs(of["flat"]["wavelength"] - LINE) > 60
    assert np.abs(of["flat"]["mean"][away]).max() < 0.01
    for name in ("mean", "low", "high"):
        assert np.abs(of["full"][name]).max() < 1e-3
    assert (of["double"]["mean"] < -0.9).all()  # observed less predicted
    assert (found["low"] <= found["mean"] + 1e-4).all() and (found["mean"] <= found["high"] + 1e-4).all()


def test_residuals_are_relative_to_the_level_of_a_galaxy():
    scale = np.geomspace(0.1, 10, len(galaxies()))[:, None]
    one, flat, _ = with_a_line(scale)
    found = residual_table(one, {"flat": flat})
    top = found.loc[found["mean"].idxmax()]
    assert top["mean"] == pytest.approx(0.5, abs=0.05) and top["high"] - top["low"] < 0.1


def test_residuals_are_where_enough_galaxies_are():
    one, flat, _ = with_a_line()
    z, wavelength = one.test.z, residual_table(one, {"flat": flat})["wavelength"].to_numpy()
    inside = (WAVELENGTH[0] <= wavelength[:, None] * (1 + z)) & (
        wavelength[:, None] * (1 + z) <= WAVELENGTH[-1]
    )
    assert inside.sum(1).min() == len(z) // 5
    ends = np.sort(WAVELENGTH[-1] / (1 + z))[::-1]
    assert wavelength[-1] == pytest.approx(ends[len(z) // 5 - 1], rel=1.5e-3)  # within joined pixels
    assert np.diff(np.log10(wavelength)) == pytest.approx(4e-4, rel=1e-2)


def test_gaps_do_not_enter_residuals():
    one, flat, _ = with_a_line(gaps=0.03)
    found = residual_table(one, {"half": 0.5 * flat})
    truth = one.test.spectra
    away = np.abs(found["wavelength"] - LINE) > 60
    # The level is the mean over the pixels that were measured, a little above 1 for the line.
    level = np.average(np.where(truth.ivar > 0, truth.flux, 0), weights=truth.ivar, axis=1)
    expected = 0.5 / level
    assert away.sum() > 500
    for name in ("mean", "low", "high"):
        assert found[name][away].min() > 0.99 * expected.min()
        assert found[name][away].max() < 1.01 * expected.max()


# ---------------------------------------------------------------------------------------- lines and examples


@pytest.fixture(scope="module")
def tables():
    truth, reference = task().test.spectra, task().reference
    several = [shape_table(truth, factor * predicted().mean, reference) for factor in (1, 0.9)]
    several[0] = several[0].assign(z_recovered=task().test.z + 0.01, d4000=1.0)
    return {"ours": several[:1], "network": several}


def test_galaxies_are_lines_by_method_and_seed(tables, tmp_path):
    found = galaxy_lines(task(), tables, predicted().redshifts)
    path = tmp_path / "galaxies.parquet"
    found.to_parquet(path)
    again = pd.read_parquet(path)
    pd.testing.assert_frame_equal(again, found)
    n = len(task().test)
    assert len(found) == 3 * n and "d4000" not in found
    for name, seed in (("ours", 0), ("network", 0), ("network", 1)):
        part = again[(again["method"] == name) & (again["seed"] == seed)]
        assert len(part) == n
        for column in ("error", "total", "c_error", "c_total", "noise", "c_noise", "chi2"):
            np.testing.assert_allclose(part[column], tables[name][seed][column], rtol=1e-6)
        np.testing.assert_allclose(part["z"], task().test.z, rtol=1e-6)
        np.testing.assert_allclose(part["r"], task().test.r, rtol=1e-6)
        np.testing.assert_allclose(part["z_phot"], np.median(predicted().redshifts, axis=1), rtol=1e-6)
        np.testing.assert_array_equal(part["red"], task().test.is_red)
    assert again["z_recovered"].notna().sum() == 2 * n
    assert found["error"].dtype == np.float32 and found["red"].dtype == bool


def test_examples_are_good_typical_and_bad_of_the_bright_of_each_type(tables):
    found = examples(task(), tables)
    error, test = tables["ours"][0]["c_error"].to_numpy(), task().test
    bright = test.r <= np.median(test.r)
    for name, of_type in (("early type", test.is_red), ("late type", ~test.is_red)):
        rows = np.flatnonzero(bright & of_type)
        if not len(rows):
            assert not any(name in label for label in found)
            continue
        picked = [found[f"{label}, {name}"] for label in ("good", "typical", "bad")]
        assert set(picked) <= set(rows)
        assert (np.diff(error[picked]) >= 0).all()
        rank = np.searchsorted(np.sort(error[rows]), error[picked]) / max(len(rows) - 1, 1)
        np.testing.assert_allclose(rank, [0.05, 0.5, 0.98], atol=0.5 / max(len(rows) - 1, 1) + 1e-9)
    # By the method that is asked for.
    upside_down = {"ours": [tables["ours"][0].assign(c_error=-error)]}
    other = examples(task(), upside_down)
    assert error[other["good, early type"]] > error[other["bad, early type"]]
    assert examples(task(), tables | upside_down, ours="network") == found


# --------------------------------------------------------------------------------------------------- gallery


def saved(path, rows, network=None):
    band = ConformalBand(products.LEVELS).fit(
        task().test.spectra, predicted().mean, np.maximum(predicted().variance, 1e-6)
    )
    network = 0.5 * predicted().mean if network is None else network
    return band, save_gallery(path, task(), band, predicted(), network, rows)


def test_a_gallery_is_read_as_it_was_written(tmp_path):
    rows = {"good, early type": 5, "bad, late type": 0, "typical": 11}
    band, path = saved(tmp_path / "gallery.npz", rows)
    found, at, test = load_gallery(path), list(rows.values()), task().test
    assert list(found["label"]) == list(rows)
    for name, expected in {
        "wavelength": WAVELENGTH,
        "images": test.images[at],
        "flux": test.spectra.flux[at],
        "ivar": test.spectra.ivar[at],
        "mean": predicted().mean[at],
        "sharp": predicted().draw[at],
        "astra": 0.5 * predicted().mean[at],
        "z": test.z[at],
        "r": test.r[at],
        "z_phot": np.median(predicted().redshifts, axis=1)[at],
    }.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, err_msg=name)
    for level in (68, 95):
        # Of the spectrum itself, without the noise of a measurement.
        low, high = band.interval(
            predicted().mean[at], predicted().variance[at], np.full((3, 3840), np.inf), level / 100
        )
        np.testing.assert_allclose(found[f"low{level}"], low, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found[f"high{level}"], high, rtol=1e-5, atol=1e-5)
    assert (found["high95"] - found["low95"] >= found["high68"] - found["low68"] - 1e-5).all()
    assert found["flux"].dtype == np.float32 and found["wavelength"].dtype == np.float64


def test_nothing_is_unpickled_from_a_gallery(tmp_path):
    path = tmp_path / "gallery.npz"
    np.savez(path, label=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load_gallery(path)


def test_a_gallery_is_replaced_at_once_or_not_at_all(tmp_path, monkeypatch):
    _, path = saved(tmp_path / "gallery.npz", {"one": 1})
    before = path.read_bytes()

    def broken(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", broken)
    with pytest.raises(OSError, match="disk full"):
        saved(path, {"two": 2})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# --------------------------------------------------------------------------------------------------- figures


def test_examples_show_the_image_and_the_spectrum_of_each_galaxy():
    one, rows = galaxies(), np.array([3, 17, 40])
    fig = sample_plots.examples_figure(one, rows)
    assert len(fig.axes) == 2 * len(rows)
    for number, row in enumerate(rows):
        left, right = fig.axes[2 * number : 2 * number + 2]
        assert left.images[0].get_array().shape == (*one.images.shape[-2:], 3)
        np.testing.assert_allclose(right.lines[0].get_ydata(), one.spectra.flux[row])
        (text,) = [t.get_text() for t in right.texts if t.get_text().startswith("z =")]
        kind = "red" if one.is_red[row] else "blue"
        assert text == f"z = {one.z[row]:.3f}, r = {one.r[row]:.1f}, {kind}"
        marks = {t.get_text(): t.xy[0] for t in right.texts if hasattr(t, "xy")}
        assert marks["Hα"] == pytest.approx(6564.6 * (1 + one.z[row]))
        assert right.get_xlim() == tuple(WAVELENGTH[[0, -1]])
    assert fig.axes[-1].get_xlabel() == "observed wavelength [Å]"
    assert any("nanomaggy" in ax.get_ylabel() for ax in fig.axes[1::2])


def test_gaps_are_not_drawn():
    one = galaxies()
    ivar = one.spectra.ivar.copy()
    ivar[3, 100:150] = 0
    some = dataclasses.replace(one, spectra=Spectra(WAVELENGTH, one.spectra.flux, ivar))
    line = sample_plots.examples_figure(some, np.array([3])).axes[1].lines[0].get_ydata()
    assert np.isnan(line[100:150]).all() and np.isfinite(np.delete(line, range(100, 150))).all()


def test_parts_are_shown_by_redshift_and_magnitude():
    one = task()
    fig = sample_plots.parts_figure({"training": one.train, "test": one.test})
    left, right = fig.axes
    assert (left.get_xlabel(), left.get_ylabel()) == ("redshift", "density")
    assert right.get_xlabel() == "Petrosian $r$, dereddened [mag]" and right.get_ylabel() == "density"
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels == [f"training ({len(one.train)})", f"test ({len(one.test)})"]
    for ax, name in ((left, "z"), (right, "r")):
        assert len(ax.patches) == 2
        for patch, values in zip(reversed(ax.patches), (one.train, one.test), strict=True):
            x = patch.get_xy()[:, 0]
            assert x.min() <= getattr(values, name).min() and x.max() >= getattr(values, name).max()
    assert left.patches[0].get_edgecolor() != left.patches[1].get_edgecolor()


def test_means_are_of_red_and_of_blue_galaxies():
    one = galaxies()
    (ax,) = sample_plots.mean_figure(one).axes
    assert ax.get_xlabel() == "observed wavelength [Å]" and "nanomaggy" in ax.get_ylabel()
    labels = [line.get_label() for line in ax.lines]
    assert labels == [f"red ({one.is_red.sum()})", f"blue ({(~one.is_red).sum()})"]
    for line, mine in zip(ax.lines, (one.is_red, ~one.is_red), strict=True):
        np.testing.assert_allclose(line.get_ydata(), np.median(one.spectra.flux[mine], axis=0), rtol=1e-5)
    # Blue galaxies are bluer; and one type alone is drawn alone.
    red, blue = (line.get_ydata() for line in ax.lines)
    assert (red / blue)[:300].mean() < (red / blue)[-300:].mean()
    assert len(sample_plots.mean_figure(one.select(one.is_red)).axes[0].lines) == 1
