"""Grid, rest-frame decoder, redshifts by templates and the decoder of photometry, on spectra made here."""

import numpy as np
import pytest

from astro_utils.astra.decoder import RestFrameDecoder, grid_of, move, to_rest, weighted_components
from astro_utils.astra.grid import SDSS_GRID, LogGrid, calibrate, deredden, normalise, rebin, synthetic_flux
from astro_utils.astra.photometric_decoder import ConformalBand, PhotometricDecoder, Photometry
from astro_utils.astra.redshift_template import RedshiftFinder
from astro_utils.kcorrections.features import Features
from astro_utils.samples import Spectra
from astro_utils.sky.spectra import SDSS
from astro_utils.spectrum_scores import interval_coverage, r2

GRID = LogGrid(SDSS_GRID.first, SDSS_GRID.step, 3840).coarser(3)


def rest_spectrum(wavelength, a, b):
    """Give a continuum with a break, absorption lines, and emission lines of strength `b`."""
    x = np.log(wavelength / 5500)
    flux = 1 + a * x - 0.5 * (1 + np.tanh(-(wavelength - 4000) / 30)) * (0.3 + 0.2 * a)
    for centre, depth in ((5183.0, -0.15), (5895.0, -0.15), (4305.0, -0.1), (3934.0, -0.2)):
        flux = flux + depth * np.exp(-0.5 * ((wavelength - centre) / 9) ** 2)
    for centre, height in ((6564.6, 1.0), (5008.2, 0.6), (3728.5, 0.7)):
        flux = flux + b * height * np.exp(-0.5 * ((wavelength - centre) / 7) ** 2)
    return flux


def made(n, noise=0.05, seed=0):
    rng = np.random.default_rng(seed)
    z, a = rng.uniform(0.02, 0.25, n), np.clip(rng.normal(0.1, 0.25, n), -0.3, 0.5)
    b = np.clip(0.5 - a + 0.1 * rng.normal(size=n), 0, None)
    clean = rest_spectrum(GRID.wavelength / (1 + z[:, None]), a[:, None], b[:, None])
    ivar = np.full(clean.shape, 1 / max(noise, 1e-3) ** 2)
    ivar[rng.random(clean.shape) < 0.01] = 0
    flux = np.where(ivar > 0, clean + noise * rng.normal(size=clean.shape), -50)
    return z, a, b, clean, Spectra(GRID.wavelength, flux.astype(np.float32), ivar.astype(np.float32))


# ---------------------------------------------------------------------------------------------- grid


def test_the_default_grid_is_that_of_sdss():
    np.testing.assert_allclose(SDSS_GRID.wavelength, SDSS.wavelength, rtol=1e-10)
    np.testing.assert_allclose(SDSS_GRID.coarser(4).edges, SDSS_GRID.edges[::4], rtol=1e-10)
    assert grid_of(GRID.wavelength).n_pixels == 1280
    with pytest.raises(ValueError, match="not equal steps in log10"):
        grid_of(np.linspace(4000, 9000, 100))


def test_rebinning_joins_pixels_by_inverse_variance():
    rng = np.random.default_rng(0)
    flux, ivar = rng.normal(size=(2, 3840)), rng.uniform(0.5, 2, (2, 3840))
    out = rebin(Spectra(SDSS_GRID.wavelength, flux, ivar), SDSS_GRID.coarser(2))
    weight = ivar.reshape(2, -1, 2)
    # Edges of the old pixels are taken half way between centres, which is off by 1e-5 of a pixel.
    np.testing.assert_allclose(out.ivar, weight.sum(2), rtol=1e-3)
    mean = (weight * flux.reshape(2, -1, 2)).sum(2) / weight.sum(2)
    np.testing.assert_allclose(out.flux, mean, atol=1e-3)


def test_rebinning_linear_pixels_keeps_flux_information_and_masks():
    wave = 3600 + 0.8 * np.arange(7781)
    ivar = np.full((1, 7781), 4.0)
    ivar[0, 3000:3020] = 0
    flux = np.where(ivar > 0, wave / 5000, 7.0)
    out = rebin(Spectra(wave, flux, ivar), SDSS_GRID)
    measured = out.ivar > 0
    np.testing.assert_allclose(out.flux[measured], (SDSS_GRID.wavelength / 5000)[measured[0]], rtol=2e-4)
    inside = (SDSS_GRID.wavelength > wave[3001]) & (SDSS_GRID.wavelength < wave[3018])
    assert not measured[0, inside].any() and measured.mean() > 0.99
    covered = (wave > SDSS_GRID.edges[0]) & (wave < SDSS_GRID.edges[-1])
    assert out.ivar.sum() == pytest.approx(ivar[0, covered].sum(), rel=2e-3)
    with pytest.raises(ValueError, match="spectrum 0 has an inverse variance that is negative"):
        rebin(Spectra(wave, flux, -ivar), SDSS_GRID)


def test_calibration_makes_the_synthetic_flux_the_catalogues():
    _, _, _, _, spectra = made(4)
    flux = np.array([1.0, 20.0, 3.0, 0.5])
    scaled = calibrate(spectra, flux)
    np.testing.assert_allclose(synthetic_flux(scaled, ["sdss2010-r"])[:, 0], flux, rtol=1e-5)
    signal = [np.median(s.flux * np.sqrt(s.ivar)) for s in (spectra, scaled)]
    assert signal[0] == pytest.approx(signal[1], rel=1e-4)
    unit, r = normalise(scaled)
    np.testing.assert_allclose(r, flux, rtol=1e-5)
    np.testing.assert_allclose(synthetic_flux(unit, ["sdss2010-r"]), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="flux of galaxy 2 is -3"):
        calibrate(spectra, np.array([1, 1, -3, 1]))
    half = Spectra(GRID.wavelength, spectra.flux, np.where(GRID.wavelength < 6200, spectra.ivar, 0))
    with pytest.raises(ValueError, match="spectrum 0 has the synthetic sdss2010-r flux nan"):
        calibrate(half, 1.0)


def test_dust_is_undone():
    _, _, _, _, spectra = made(2)
    clear = deredden(spectra, np.array([0.0, 0.2]))
    np.testing.assert_allclose(clear.flux[0], spectra.flux[0], rtol=1e-6)
    at = np.searchsorted(GRID.wavelength, [4500, 8000])
    blue, red = (clear.flux / spectra.flux)[1, at]
    assert blue == pytest.approx(10 ** (0.4 * 0.2 * 0.86 * 3.7), rel=0.05) and 1 < red < blue
    np.testing.assert_allclose(
        clear.flux * np.sqrt(clear.ivar), spectra.flux * np.sqrt(spectra.ivar), rtol=1e-4
    )


# ------------------------------------------------------------------------------------------ decoder


def test_moving_there_and_back_is_exact_for_smooth_spectra():
    rest = LogGrid(3.45, GRID.step, 1900)
    z = np.array([0.0, 0.0313, 0.17])
    flux = rest_spectrum(rest.wavelength, 0.3, 0.0)[None].repeat(3, 0)
    seen = move(flux, rest, GRID, z, to_rest=False)
    expected = rest_spectrum(GRID.wavelength / (1 + z[:, None]), 0.3, 0.0)
    np.testing.assert_allclose(seen, expected, atol=1e-3)
    back = move(seen, GRID, rest, z, to_rest=True)
    inside = (rest.wavelength > 3900) & (rest.wavelength < 7500)
    np.testing.assert_allclose(back[:, inside], flux[:, inside], atol=1e-3)
    with pytest.raises(ValueError, match="expected the same"):
        move(flux, rest, SDSS_GRID, z, to_rest=False)


def test_masked_pixels_stay_masked_in_the_rest_frame():
    z, _, _, _, spectra = made(3)
    spectra.ivar[1, 500:520] = 0
    flux, ivar = to_rest(spectra, z, LogGrid(3.45, GRID.step, 1900))
    assert (ivar[1] == 0).sum() >= (ivar[0] == 0).sum() - 60 and flux.min() > -5, "gaps leak into neighbours"
    first = np.flatnonzero(ivar[1] > 0)[0]
    gap = (np.log10(spectra.wavelength[510] / (1 + z[1])) - 3.45) / GRID.step
    assert gap > first and (ivar[1, int(gap) - 5 : int(gap) + 5] == 0).all()


def test_pixels_beside_a_gap_are_not_used():
    ivar = np.ones((1, GRID.n_pixels), np.float32)
    ivar[0, 600] = 0
    _, rest = to_rest(Spectra(GRID.wavelength, np.ones_like(ivar), ivar), np.zeros(1), GRID)
    assert np.flatnonzero(rest[0] == 0).tolist() == [0, 599, 600, 601, GRID.n_pixels - 1]


def test_components_span_the_truth_in_spite_of_noise_and_gaps():
    rng = np.random.default_rng(1)
    true = np.linalg.qr(rng.normal(size=(200, 3)))[0].T
    c = rng.normal(size=(400, 3)) * [3, 2, 1] + [9, 0, 0]
    ivar = np.where(rng.random((400, 200)) < 0.4, 0, rng.uniform(100, 900, (400, 200)))
    noise = rng.normal(size=(400, 200)) / np.sqrt(np.where(ivar > 0, ivar, np.inf))
    basis, mean, covariance = weighted_components(np.where(ivar > 0, c @ true + noise, 1e6), ivar, 3)
    np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(np.linalg.svd(basis @ true.T)[1], 1, atol=2e-3)
    turn = basis @ true.T
    np.testing.assert_allclose(mean, turn @ c.mean(0), atol=0.1)
    np.testing.assert_allclose(covariance, turn @ np.cov(c.T) @ turn.T, atol=0.4)
    with pytest.raises(ValueError, match="5 components of 4 spectra"):
        weighted_components(np.ones((4, 20)), np.ones((4, 20)), 5)


def test_the_decoder_represents_spectra_it_has_not_seen_at_any_redshift():
    z, _, _, _, spectra = made(300)
    decoder = RestFrameDecoder.fit(spectra, z, 3)
    z2, _, _, clean, new = made(60, seed=5)
    c, covariance = decoder.encode(new, z2)
    model = decoder.decode(c, z2, GRID)
    assert r2(new, model, clean.mean(0))[1] > 0.995
    assert np.sqrt(np.square(model - clean).mean()) < 0.012
    # Error bars of coefficients, against those without noise.
    exact, _ = decoder.encode(Spectra(GRID.wavelength, clean, np.full(clean.shape, 1e6)), z2)
    pull = (c - exact) / np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    assert 0.7 < pull.std() < 1.4
    with pytest.raises(ValueError, match="expected 60 redshifts above -1"):
        RestFrameDecoder.fit(new, z2 - 2, 3)


def test_lines_of_their_own_hold_ratios_that_training_never_had():
    z, _, _, _, spectra = made(200)
    decoder = RestFrameDecoder.fit(spectra, z, 3)
    z2, a, b, _, _ = made(20, seed=8)
    odd = rest_spectrum(GRID.wavelength / (1 + z2[:, None]), a[:, None], b[:, None])
    odd += np.exp(-0.5 * ((GRID.wavelength / (1 + z2[:, None]) / 6585.3 - 1) / 1e-3) ** 2)
    new = Spectra(GRID.wavelength, odd, np.full(odd.shape, 400.0))
    error = [
        np.abs(one.decode(one.encode(new, z2)[0], z2, GRID) - odd).max(1).mean()
        for one in (decoder, decoder.with_lines())
    ]
    assert error[1] < 0.25 * error[0]


def test_redshifts_are_recovered():
    z, _, _, _, spectra = made(200)
    decoder = RestFrameDecoder.fit(spectra, z, 4)
    z2, _, _, clean, new = made(30, noise=0.02, seed=9)
    finder = RedshiftFinder(decoder, GRID, np.ones(GRID.n_pixels), z_max=0.35, step=1e-3)
    assert np.abs(finder(clean) - z2).max() < 5e-4
    assert np.median(np.abs(finder(np.where(new.ivar > 0, new.flux, clean)) - z2)) < 5e-4
    moved = rest_spectrum(GRID.wavelength / 1.3, 0.4, 0.3)[None]
    assert finder(moved)[0] == pytest.approx(0.3, abs=1e-3)
    with pytest.raises(ValueError, match="spectra of shape"):
        finder(clean[:, :-1])


# ------------------------------------------------------------------------------- the decoder of photometry


FILTERS = ("sdss2010-g", "sdss2010-r", "sdss2010-i")


def photometry(z, clean, spectra, seed=0, error=0.01):
    rng = np.random.default_rng(seed)
    flux = synthetic_flux(Spectra(GRID.wavelength, clean, np.ones_like(clean)), FILTERS)
    flux = flux * (1 + error * rng.normal(size=flux.shape))
    colours = -2.5 * np.log10(flux[:, :2] / flux[:, 1:])
    hint = z + 0.01 * rng.normal(size=len(z))  # what else tells of the redshift
    features = Features(np.column_stack([colours, hint]), ("colour", "colour", "magnitude"))
    return Photometry(features, flux, error * flux, FILTERS)


@pytest.fixture(scope="module")
def fitted():
    z, _, _, clean, spectra = made(500, seed=2)
    unit, _ = normalise(spectra)
    model = PhotometricDecoder(n_components=3, n_quantiles=12, max_redshift=0.35)
    return model.fit(photometry(z, clean, spectra), unit, z, np.arange(500) // 10)


@pytest.fixture(scope="module")
def new():
    z, _, _, clean, spectra = made(240, seed=3)
    unit, r = normalise(spectra)
    return z, clean / r[:, None], unit, photometry(z, clean, spectra, seed=4)


def test_the_mean_beats_a_draw_and_a_draw_is_sharp(fitted, new):
    z, clean, unit, known = new
    mean, _ = fitted.moments(known)
    draw, drawn_z = fitted.sample(known, np.random.default_rng(0))
    reference = clean.mean(0)
    assert r2(unit, mean, reference)[1] > 0.8 > r2(unit, draw, reference)[1]
    assert r2(unit, fitted.at_redshift(known, z), reference)[1] > 0.98
    assert np.std(drawn_z - z) == pytest.approx(
        np.sqrt(2) * np.std(fitted.density.quantiles(known.features).mean(1) - z), rel=0.35
    )
    roughness = [np.abs(np.diff(flux, 2)).max(1).mean() for flux in (clean, draw, mean)]
    assert roughness[1] > 0.75 * roughness[0] and roughness[2] < 0.75 * roughness[1]


def test_predictions_have_the_measured_colours(fitted, new):
    z, _, _, known = new
    mean, _ = fitted.moments(known)
    synthetic = synthetic_flux(Spectra(GRID.wavelength, mean, np.ones_like(mean)), FILTERS)
    np.testing.assert_allclose(synthetic[:, 1], 1, rtol=2e-3)
    ratio = synthetic / synthetic[:, [1]] / (known.flux / known.flux[:, [1]])
    assert np.abs(ratio - 1).mean() < 0.01
    draw, _ = fitted.sample(known, np.random.default_rng(2))
    drawn = synthetic_flux(Spectra(GRID.wavelength, draw, np.ones_like(draw)), FILTERS)
    off = drawn / drawn[:, [1]] / (known.flux / known.flux[:, [1]]) - 1
    assert np.abs(off[:, [0, 2]]).mean() < 0.0125, "draws have the measured colours within the errors"
    # Photometry that is off by more than its error is followed as far as its error allows.
    shifted = Photometry(known.features, known.flux * [1.1, 1, 1], known.error * [0.1, 0.1, 0.1], FILTERS)
    bluer = synthetic_flux(
        Spectra(GRID.wavelength, fitted.at_redshift(shifted, z), np.ones_like(mean)), FILTERS
    )
    plain = synthetic_flux(
        Spectra(GRID.wavelength, fitted.at_redshift(known, z), np.ones_like(mean)), FILTERS
    )
    assert 1.02 < np.median((bluer / plain)[:, 0]) < 1.1


def test_conformal_bands_cover_what_they_claim(fitted, new):
    _, _, unit, known = new
    mean, variance = fitted.moments(known)
    one, two = np.arange(0, 240, 2), np.arange(1, 240, 2)

    def part(rows):
        return Spectra(unit.wavelength, unit.flux[rows], unit.ivar[rows])

    # A variance that is four times too large is put right.
    band = ConformalBand((0.68, 0.95), 8).fit(part(one), mean[one], 4 * variance[one])
    for level in (0.68, 0.95):
        lower, upper = band.interval(mean[two], 4 * variance[two], unit.ivar[two], level)
        assert interval_coverage(part(two), lower, upper) == pytest.approx(level, abs=0.03)
    with pytest.raises(ValueError, match=r"level 0.5; calibrated for 0.68, 0.95"):
        band.interval(mean, variance, unit.ivar, 0.5)


def test_the_variance_is_that_of_draws(fitted, new):
    few = new[3].select(np.arange(12))
    mean, variance = fitted.moments(few)
    rng = np.random.default_rng(7)
    draws = np.stack([fitted.sample(few, rng)[0] for _ in range(120)])
    assert np.abs(draws.mean(0) - mean).mean() < 0.01
    assert np.median(draws.var(0) / variance) == pytest.approx(1, abs=0.25)


def test_bad_photometry_is_named():
    features = Features(np.zeros((2, 1)), ("magnitude",))
    with pytest.raises(ValueError, match="galaxy 1 has a flux or an error that is not above 0"):
        Photometry(features, np.array([[1.0, 1, 1], [1, -1, 1]]), np.ones((2, 3)), FILTERS)
    with pytest.raises(ValueError, match="expected sdss2010-r among them"):
        Photometry(features, np.ones((2, 1)), np.ones((2, 1)), ("sdss2010-g",))
