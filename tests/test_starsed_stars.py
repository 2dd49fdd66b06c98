"""Star catalogues: seeds, sets and noise, shifts before light is summed in pixels, files that resume."""

from dataclasses import dataclass, fields, replace

import h5py
import numpy as np
import pytest
from scipy.stats import kstest

from astro_utils.sample_format import SampleError
from astro_utils.samples import open_sample, split, validate
from astro_utils.starsed import star_samples
from astro_utils.starsed.stamps import FourierShifted, fourier_shift, noise_sigma, observe, power_ratio
from astro_utils.starsed.star_samples import read_stars, write_stars
from astro_utils.starsed.stars import (
    SUBSETS,
    Catalogue,
    Detector,
    StarConfig,
    complementary_exposure,
    draw_catalogue,
    subset,
)
from astro_utils.starsed.templates import Templates

BINS, SIDE, FACTOR = 3, 16, 3
SMALL = StarConfig(seed=5, n_train=700, n_test=40)
REAL = replace(SMALL, flux_limits=(2e4, 2e5), max_shift=0.5, detector=Detector())
ALL = np.arange(13)


def make_templates(classes=ALL, seed=0):
    weights = np.random.default_rng(seed).dirichlet(np.ones(BINS), len(classes))
    names = tuple(f"star {k}" for k in range(len(classes)))
    return Templates(names, np.asarray(classes), weights, np.array([600.0, 725.0, 850.0]), "stelib")


@dataclass(frozen=True)
class Gaussians:
    """Oversampled Gaussians that grow with wavelength and across the field; can be shifted exactly."""

    factor: int = FACTOR

    def __call__(self, positions, shifts=None):
        n = SIDE * self.factor
        axis = (np.arange(n) + 0.5) / self.factor - SIDE / 2  # pixels
        shifts = np.zeros((len(positions), 2)) if shifts is None else shifts
        width = np.linspace(1.2, 1.6, BINS) * (1 + positions[:, :1] / 4000)  # (n, bins)
        x, y = (np.exp(-((axis - shifts[:, k, None, None]) ** 2) / 2 / width[..., None] ** 2) for k in (0, 1))
        stamps = y[..., :, None] * x[..., None, :]
        return stamps / stamps.sum((2, 3), keepdims=True)


def gaussian_pixels(positions, shifts=None):
    """Make the same summed in pixels, at integer factors of oversampling."""
    fine = Gaussians()(positions, shifts)
    return fine.reshape(len(fine), BINS, SIDE, FACTOR, SIDE, FACTOR).sum((3, 5))


def assert_equal(first, second, names=None):
    for name in names or [field.name for field in fields(first)]:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


# --------------------------------------------------------------------------------------------- catalogues


def test_the_published_catalogue_has_its_distributions():
    config = StarConfig(seed=3)
    drawn = draw_catalogue(config, ALL)
    assert len(drawn) == 13_000 and drawn.positions.shape == (13_000, 2)
    for values, low, high in (
        (drawn.positions[:, 0], 0, 1000),
        (drawn.positions[:, 1], 0, 1000),
        (drawn.snr, 20, 110),
    ):
        assert kstest(values, "uniform", (low, high - low)).pvalue > 1e-3
    counts = np.bincount(drawn.labels, minlength=13)
    assert ((counts - 1000) ** 2 / 1000).sum() < 32.9, "chi2 of 12 degrees of freedom, one in a thousand"
    np.testing.assert_array_equal(drawn.spectra, drawn.labels)
    assert (drawn.flux == 1).all() and (drawn.shifts == 0).all()
    # Coordinates, classes and ratios have nothing to do with one another.
    table = np.column_stack([drawn.positions, drawn.labels, drawn.snr])
    assert abs(np.corrcoef(table.T) - np.eye(4)).max() < 0.04


def test_no_two_quantities_share_random_numbers():
    config = StarConfig(n_train=4000, n_test=0, flux_limits=(1.0, 10.0), max_shift=0.5)
    drawn = draw_catalogue(config, np.repeat(ALL, 50))
    within = drawn.spectra % 50
    # Number by number, in the order in which each quantity is drawn.
    columns = [drawn.positions, drawn.shifts, drawn.snr, np.log(drawn.flux), within, drawn.labels]
    table = np.column_stack([np.ravel(column)[:4000] for column in columns])
    assert abs(np.corrcoef(table.T) - np.eye(6)).max() < 0.07


def test_the_first_stars_are_the_same_however_many_there_are():
    many, few = StarConfig(seed=3), StarConfig(seed=3, n_train=2000, n_test=1000)
    first, second = draw_catalogue(many, ALL), draw_catalogue(few, ALL)
    for name in [field.name for field in fields(Catalogue)]:
        a, b = getattr(first, name), getattr(second, name)
        np.testing.assert_array_equal(a[:2000], b[:2000])
        np.testing.assert_array_equal(a[subset("test", many)], b[subset("test", few)])
    assert not (first.positions[:1000] == first.positions[subset("test", many)]).any()


def test_the_sets_of_the_study_are_nested_and_classifier_stars_are_others():
    rows = np.arange(13_000)
    config = StarConfig()
    sizes = [len(rows[subset(f"S{k}", config)]) for k in range(1, 7)]
    assert sizes == [50, 100, 200, 500, 1000, 2000]
    assert all(rows[SUBSETS[f"S{k}"]][0] == 0 for k in range(1, 7))
    classifier, extra = rows[subset("classifier", config)], rows[subset("extra", config)]
    assert (classifier[0], classifier[-1], len(classifier)) == (2000, 11_999, 10_000)
    assert (extra[0], extra[-1], len(extra)) == (2000, 3999, 2000)
    assert not set(classifier) & set(rows[subset("S6", config)])
    test, train = rows[subset("test", config)], rows[subset("train", config)]
    assert (test[0], len(test), len(train)) == (12_000, 1000, 12_000)
    with pytest.raises(ValueError, match="subset classifier needs 12000 training stars, not 700"):
        subset("classifier", SMALL)
    with pytest.raises(ValueError, match="subset is 'S7'; expected one of S1, S2"):
        subset("S7", config)


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        ({"snr_limits": (5.0, 6.0)}, {"snr"}),
        ({"field_limits": (0.0, 1.0)}, {"positions"}),
        ({"flux_limits": (1.0, 2.0)}, {"flux"}),
        ({"max_shift": 0.5}, {"shifts"}),
        ({"noise_realisation": 1}, set()),
        ({"seed": 6}, {"positions", "labels", "spectra", "snr"}),
    ],
)
def test_a_change_of_one_quantity_does_not_shift_the_others(change, moved):
    first, second = draw_catalogue(SMALL, ALL), draw_catalogue(replace(SMALL, **change), ALL)
    names = [field.name for field in fields(Catalogue)]
    changed = {name for name in names if (getattr(first, name) != getattr(second, name)).any()}
    assert changed == moved


def test_spectra_are_drawn_within_the_class():
    classes = np.array([5, 2, 5, 5, 7])
    drawn = draw_catalogue(StarConfig(n_train=6000, n_test=0), classes)
    np.testing.assert_array_equal(classes[drawn.spectra], drawn.labels)
    counts = np.bincount(drawn.spectra)
    assert abs(counts[[1, 4]] - 2000).max() < 150 and abs(counts[[0, 2, 3]] - 2000 / 3).max() < 100
    # With one spectrum to a class, positions and ratios are the same stars.
    same = draw_catalogue(StarConfig(n_train=6000, n_test=0), ALL)
    np.testing.assert_array_equal(same.positions, drawn.positions)


def test_fluxes_are_even_in_logarithm():
    drawn = draw_catalogue(REAL, ALL)
    assert kstest(np.log10(drawn.flux), "uniform", (np.log10(2e4), 1)).pvalue > 1e-3
    assert kstest(drawn.shifts.ravel(), "uniform", (-0.5, 1)).pvalue > 1e-3
    assert np.isnan(drawn.snr).all()


def test_another_exposure_has_other_stars():
    other = complementary_exposure(StarConfig(seed=3), seed=4)
    assert (other.n_train, other.n_test, other.seed) == (0, 1000, 4)
    drawn, first = draw_catalogue(other, ALL), draw_catalogue(StarConfig(seed=3), ALL)
    assert len(drawn) == 1000
    assert not (drawn.positions == first.positions[subset("test", StarConfig(seed=3))]).any()
    with pytest.raises(ValueError, match="seed is 3 for both exposures"):
        complementary_exposure(StarConfig(seed=3), seed=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_train": -1}, "n_train is -1; expected a whole number, not negative"),
        ({"seed": 0.5}, "seed is 0.5; expected a whole number"),
        ({"n_train": 0, "n_test": 0}, "n_train and n_test are both 0"),
        ({"snr_limits": (0.0, 1.0)}, r"snr_limits are \(0.0, 1.0\); expected numbers above 0"),
        (
            {"field_limits": (1.0, 1.0)},
            r"field_limits are \(1.0, 1.0\); expected two numbers, the first below",
        ),
        ({"flux_limits": (1.0, np.inf)}, "flux_limits are"),
        ({"max_shift": 0.6}, "max_shift is 0.6; expected 0 to 0.5 pixels"),
        ({"detector": Detector()}, "a detector counts electrons: give flux_limits"),
    ],
)
def test_configurations_without_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        StarConfig(**changes)


def test_detectors_and_classes_without_sense_are_refused():
    with pytest.raises(ValueError, match="gain of the detector is 0"):
        Detector(gain=0)
    with pytest.raises(ValueError, match="read_noise of the detector is -1"):
        Detector(read_noise=-1)
    for classes, message in (
        ([13], "run from 13 to 13"),
        ([], "must be"),
        ([0.5], r"must be \(M,\) integers"),
    ):
        with pytest.raises(ValueError, match=message):
            draw_catalogue(SMALL, np.array(classes))


# ------------------------------------------------------------------------------------------------- stamps


def test_the_ratio_is_one_of_powers():
    image = np.random.default_rng(0).uniform(0, 1, (3, 32, 32))
    snr = np.array([20.0, 50.0, 110.0])
    sigma = noise_sigma(image, snr)
    np.testing.assert_allclose(sigma**2, (image**2).sum((1, 2)) / (snr * 1024))
    np.testing.assert_allclose(power_ratio(image, sigma[:, None, None] ** 2), snr)
    np.testing.assert_allclose(power_ratio(image[0], 0.01), (image[0] ** 2).mean() / 0.01)


def test_stamps_are_weighted_sums_with_white_noise_of_their_ratio():
    known = make_templates()
    drawn = draw_catalogue(SMALL, known.classes)
    stars = observe(drawn, SMALL, gaussian_pixels, known)
    mono = gaussian_pixels(drawn.positions)
    expected = (known.weights[drawn.labels][:, :, None, None] * mono).sum(1)
    np.testing.assert_allclose(stars.noiseless, expected, rtol=1e-6)
    np.testing.assert_allclose(stars.noiseless.sum((1, 2)), 1, rtol=1e-5)
    noise = (stars.stamps - stars.noiseless) / stars.sigma[:, None, None]
    assert kstest(noise.ravel()[::3], "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise[:, 0, 0], noise[:, 0, 1])[0, 1]) < 0.12
    measured = (stars.noiseless**2).sum((1, 2)) / ((stars.stamps - stars.noiseless) ** 2).sum((1, 2))
    assert abs(np.mean(measured / drawn.snr) - 1) < 0.02
    assert stars.stamps.dtype == stars.noiseless.dtype == np.float32 and stars.gain == np.inf
    np.testing.assert_array_equal(stars.snr, drawn.snr)


@pytest.mark.parametrize("config", [SMALL, REAL], ids=["published", "realistic"])
def test_a_star_is_the_same_whichever_others_are_observed(config):
    known = make_templates()
    drawn = draw_catalogue(config, known.classes)
    stars = observe(drawn, config, gaussian_pixels, known)
    rows = np.array([699, 3, 720, 600])
    assert_equal(observe(drawn, config, gaussian_pixels, known, rows), stars.rows(rows))
    assert_equal(
        observe(drawn, config, gaussian_pixels, known, subset("test", config)), stars.rows(slice(700, 740))
    )
    shorter = replace(config, n_train=100)
    few = observe(draw_catalogue(shorter, known.classes), shorter, gaussian_pixels, known)
    assert_equal(few, stars.rows(np.r_[0:100, 700:740]))


def test_another_realisation_is_another_noise_of_the_same_stars():
    known = make_templates()
    config = replace(SMALL, n_train=20, n_test=0)
    drawn = draw_catalogue(config, known.classes)
    first = observe(drawn, config, gaussian_pixels, known)
    second = observe(drawn, replace(config, noise_realisation=1), gaussian_pixels, known)
    np.testing.assert_array_equal(first.noiseless, second.noiseless)
    difference = (first.stamps - second.stamps) / first.sigma[:, None, None]
    assert abs(difference.std() / np.sqrt(2) - 1) < 0.05
    assert len(np.unique(first.stamps[:, 0, 0])) == 20, "every star has noise of its own"


def test_realistic_noise_is_that_of_a_detector():
    known = make_templates()
    detector = Detector(gain=2.0, read_noise=5.0, sky=50.0)
    config = StarConfig(seed=1, n_train=1500, n_test=0, flux_limits=(5e4, 5.0001e4), detector=detector)
    drawn = draw_catalogue(config, known.classes)
    stars = observe(drawn, config, gaussian_pixels, known)
    np.testing.assert_allclose(stars.flux, drawn.flux / 2)
    np.testing.assert_allclose(stars.noiseless.sum((1, 2)), drawn.flux / 2, rtol=1e-4)
    np.testing.assert_allclose(stars.sigma, np.sqrt(50 + 25) / 2)
    assert stars.gain == 2
    residual = stars.stamps - stars.noiseless
    variance = stars.variance(stars.noiseless)
    np.testing.assert_allclose(variance, 75 / 4 + stars.noiseless / 2)
    for bright in (stars.noiseless > 200, stars.noiseless < 1):
        assert bright.sum() > 1000
        assert abs((residual[bright] ** 2).mean() / variance[bright].mean() - 1) < 0.03
        assert abs(residual[bright].mean()) < 4 * np.sqrt(variance[bright].mean() / bright.sum())
    np.testing.assert_allclose(stars.snr, power_ratio(stars.noiseless, variance), rtol=1e-5)


def test_shifts_happen_before_light_is_summed_in_pixels():
    known = make_templates()
    drawn = draw_catalogue(REAL, known.classes)
    rows = slice(0, 30)
    exact = observe(drawn, REAL, gaussian_pixels, known, rows).noiseless
    fourier = observe(drawn, REAL, FourierShifted(Gaussians(), FACTOR), known, rows).noiseless
    # Gaussians sampled three times in a pixel are band-limited; what is left at the edge wraps round.
    np.testing.assert_allclose(fourier, exact, rtol=0, atol=3e-5 * exact.max())
    axis = np.arange(SIDE) - (SIDE - 1) / 2
    centre = (
        np.stack([(exact * axis).sum((1, 2)), (exact * axis[:, None]).sum((1, 2))], 1)
        / drawn.flux[rows, None]
    )
    np.testing.assert_allclose(centre * REAL.detector.gain, drawn.shifts[rows], atol=3e-3)
    # To shift what is pixelised already is another thing, for a star that is not well sampled.
    sharp = np.zeros((1, 1, 24, 24))
    sharp[:, :, 10:13, 10:13] = 1 / 9
    one = FourierShifted(lambda positions: sharp)(np.zeros((1, 2)), np.array([[1 / 3, 0.0]]))
    np.testing.assert_allclose(one.sum(), 1)
    np.testing.assert_allclose(one[0, 0, 3:5, 3:5], [[2 / 9, 4 / 9], [1 / 9, 2 / 9]], atol=1e-12)


def test_a_fourier_shift_moves_whole_samples_exactly_and_keeps_sums():
    images = np.random.default_rng(0).uniform(0, 1, (2, 3, 8, 10))
    moved = fourier_shift(images, np.array([[1.0, 0.0], [-2.0, 3.0]]))
    np.testing.assert_allclose(moved[0], np.roll(images[0], 1, axis=2), atol=1e-12)
    np.testing.assert_allclose(moved[1], np.roll(images[1], (3, -2), axis=(1, 2)), atol=1e-12)
    half = fourier_shift(images, np.full((2, 2), 0.37))
    np.testing.assert_allclose(half.sum((2, 3)), images.sum((2, 3)))


@pytest.mark.parametrize(
    ("psf", "message"),
    [
        (lambda positions: gaussian_pixels(positions)[:, :2], r"shape \(40, 2, 16, 16\); expected \(40, 3\)"),
        (lambda positions: gaussian_pixels(positions)[0], r"the PSF gives stamps of shape \(3, 16, 16\)"),
        (lambda positions: np.nan * gaussian_pixels(positions), "the PSF gives stamps that are not finite"),
    ],
)
def test_stamps_of_a_wrong_psf_are_refused(psf, message):
    known = make_templates()
    with pytest.raises(ValueError, match=message):
        observe(draw_catalogue(SMALL, known.classes), SMALL, psf, known, subset("test", SMALL))


def test_catalogues_and_rows_that_do_not_fit_are_refused():
    known = make_templates()
    drawn = draw_catalogue(SMALL, known.classes)
    with pytest.raises(ValueError, match="the catalogue has 740 stars, its configuration 741"):
        observe(drawn, replace(SMALL, n_test=41), gaussian_pixels, known)
    with pytest.raises(ValueError, match="expected at least one of 740 stars"):
        observe(drawn, SMALL, gaussian_pixels, known, slice(740, 800))


# -------------------------------------------------------------------------------------------------- files


@dataclass
class Interrupted:
    """A PSF that works a number of times."""

    left: int
    asked: int = 0

    def __call__(self, positions, shifts=None):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.asked += len(positions)
        return gaussian_pixels(positions, shifts)


def write(path, config, psf=gaussian_pixels, templates=None, **options):
    options = {"psf_key": {"field_seed": 1}, "progress": False} | options
    return write_stars(path, config, psf, templates or make_templates(), **options)


@pytest.mark.parametrize("config", [SMALL, REAL], ids=["published", "realistic"])
def test_stars_come_back_from_a_sample(tmp_path, config):
    path = write(tmp_path / "stars.h5", config)
    assert validate(path, deep=True) == []
    known = make_templates()
    stars = observe(draw_catalogue(config, known.classes), config, gaussian_pixels, known)
    assert_equal(read_stars(path), stars)
    assert_equal(read_stars(path, subset("S2", config)), stars.rows(slice(0, 100)))
    with open_sample(path) as sample:
        assert (sample.info.sky, sample.info.seed, sample.info.bands) == (
            "simulated",
            5,
            ("vis", "vis_noiseless"),
        )
        assert sample.info.provenance["config"]["n_train"] == 700
        assert sample.info.provenance["psf"] == {"field_seed": 1}
    with pytest.raises(SampleError, match="would be empty"):
        split(path, {"train": 0.5, "test": 0.5}, by="sky", seed=0)


def test_a_killed_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(star_samples, "_SHARD", 64)
    config = replace(SMALL, n_train=300, n_test=20)
    whole = write(tmp_path / "whole.h5", config)
    path = tmp_path / "stars.h5"
    with pytest.raises(KeyboardInterrupt):
        write(path, config, Interrupted(left=3))
    assert not path.exists()
    again = Interrupted(left=-1)
    write(path, config, again)
    assert again.asked == 320 - 3 * 64
    assert path.read_bytes() == whole.read_bytes()
    done = Interrupted(left=0)
    assert write(path, config, done) == path and done.asked == 0


def test_a_file_of_other_stars_is_never_taken_for_these(tmp_path):
    config = replace(SMALL, n_train=20, n_test=4)
    path = write(tmp_path / "stars.h5", config)
    for change in (
        {"psf_key": {"field_seed": 2}},
        {"config": replace(config, noise_realisation=1)},
        {"templates": make_templates(seed=1)},
    ):
        with pytest.raises(SampleError, match="is not the sample asked for"):
            write(path, **{"config": config} | change)
    write(path, config, psf_key={"field_seed": 2}, overwrite=True)
    with open_sample(path) as sample:
        assert sample.info.provenance["psf"] == {"field_seed": 2}


def test_a_sample_of_something_else_is_refused(tmp_path):
    path = write(tmp_path / "stars.h5", replace(SMALL, n_train=4, n_test=0))
    with h5py.File(path, "a") as file:
        file.attrs["survey"] = "sdss"
    with pytest.raises(SampleError, match=r"stars\.h5: not stars of this study: survey is 'sdss'"):
        read_stars(path)
