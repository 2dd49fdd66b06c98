"""Star photometry: stars of known flux on frames made here, and the survey's catalogue on a real field."""

import os

import numpy as np
import pytest
from astropy.io import fits

from astro_utils import registry
from astro_utils.frames import SDSS_PIXEL_SCALE, Frame, celestial_wcs, field_frames, read_frame
from astro_utils.star_photometry import (
    PhotometryFlag,
    compare_stars,
    frame_psf,
    read_calibobj,
    star_photometry,
)

needs_data = pytest.mark.skipif(
    not os.environ.get("ASTRO_UTILS_DATA"), reason="ASTRO_UTILS_DATA does not name a folder with sdss_frames"
)
SHAPE = (700, 800)
CALIBRATION, SKY, GAIN, DARK = 0.005, 100.0, 4.76, 1.3225
SIGMA = np.sqrt(SKY / GAIN + DARK) * CALIBRATION  # nanomaggies, of a pixel of empty sky
FWHM = 2.7  # pixels


def moffat(shape, x, y, beta=3.0, fwhm=FWHM):
    """Moffat profile of unit flux within 7.43 arcsec, at the centres of the pixels."""
    rows, columns = np.indices(shape)
    alpha2 = fwhm**2 / (4 * (2 ** (1 / beta) - 1))
    within = 1 - (1 + (7.43 / SDSS_PIXEL_SCALE) ** 2 / alpha2) ** (1 - beta)
    profile = (1 + ((columns - x) ** 2 + (rows - y) ** 2) / alpha2) ** -beta
    return profile * (beta - 1) / (np.pi * alpha2) / within


def make_frame(x, y, flux, seed=0, pedestal=0.0, **profile):
    """Return a frame with stars, the noise of the camera and what its sky subtraction left."""
    image = np.zeros(SHAPE)
    for star_x, star_y, star_flux in zip(x, y, flux, strict=True):
        left, top = max(int(star_x) - 40, 0), max(int(star_y) - 40, 0)
        part = image[top : int(star_y) + 41, left : int(star_x) + 41]
        part += star_flux * moffat(part.shape, star_x - left, star_y - top, **profile)
    rng = np.random.default_rng(seed)
    counts = rng.poisson((image / CALIBRATION + SKY) * GAIN) / GAIN + rng.normal(0, np.sqrt(DARK), SHAPE)
    scale = SDSS_PIXEL_SCALE / 3600
    header = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 200.0, "CRVAL2": 30.0}
    header |= {"CRPIX1": 400.0, "CRPIX2": 350.0, "CDELT1": -scale, "CDELT2": scale}
    return Frame(
        image=((counts - SKY) * CALIBRATION + pedestal).astype(np.float32),
        wcs=celestial_wcs(fits.Header(header), "made here"),
        calibration=np.full(SHAPE[1], CALIBRATION, np.float32),
        sky=np.full(SHAPE, SKY, np.float32),
        band="r",
        run=4510,
        camcol=4,
        field=30,
        gain=GAIN,
        dark_variance=DARK,
    )


def grid(step, rng):
    """Positions on a grid, with sub-pixel offsets."""
    x, y = np.meshgrid(np.arange(60, SHAPE[1] - 50, step), np.arange(60, SHAPE[0] - 50, step))
    return x.ravel() + rng.uniform(-0.5, 0.5, x.size), y.ravel() + rng.uniform(-0.5, 0.5, x.size)


@pytest.fixture(scope="module")
def bright():
    """Return a frame of 99 stars of magnitude 17.5 to 21, and where they are."""
    rng = np.random.default_rng(1)
    x, y = grid(66, rng)
    flux = 10 ** rng.uniform(0.6, 2.0, x.size)
    return make_frame(x, y, flux), x, y, flux


# ---------------------------------------------------------------------------------------- without the data


def test_psf_is_that_of_the_frame(bright):
    psf = frame_psf(bright[0])
    expected = moffat((41, 41), 20, 20)
    assert psf.shape == (41, 41)
    assert np.unravel_index(psf.argmax(), psf.shape) == (20, 20)
    # Pixels that hold a star's light evenly, as if they were points, are what the photometry assumes.
    np.testing.assert_allclose(psf[14:27, 14:27], expected[14:27, 14:27], atol=0.03 * expected.max())
    assert psf[15:26, 15:26].sum() == pytest.approx(expected[15:26, 15:26].sum(), rel=0.01)


def test_known_fluxes_come_back(bright):
    frame, x, y, flux = bright
    measured, ivar, flags = star_photometry(frame, *frame.wcs.all_pix2world(x, y, 0))
    assert (flags == 0).all()
    offset = -2.5 * np.log10(measured / flux)
    assert np.median(offset) == pytest.approx(0, abs=0.01)
    assert np.std(offset[flux > 30]) < 0.01
    assert (ivar > 0).all()


def test_the_wings_count_up_to_the_radius_of_the_survey():
    """With wings as of the real PSF, 1.5 % of the light is between 5 and 7.43 arcsec."""
    x, y = grid(100, np.random.default_rng(6))
    frame = make_frame(x, y, np.full(x.size, 300.0), beta=2.0)
    measured = star_photometry(frame, *frame.wcs.all_pix2world(x, y, 0))[0]
    assert np.median(measured) == pytest.approx(300, rel=0.006)


def test_sky_that_is_left_in_a_frame_does_not_change_fluxes(bright):
    frame, x, y, flux = bright
    lifted = make_frame(x, y, flux, pedestal=0.05)
    there = frame.wcs.all_pix2world(x, y, 0)
    np.testing.assert_allclose(
        star_photometry(lifted, *there)[0], star_photometry(frame, *there)[0], rtol=0.01
    )


def test_a_wrong_position_is_mended_by_up_to_a_pixel(bright):
    frame, x, y, flux = bright
    measured, _, flags = star_photometry(frame, *frame.wcs.all_pix2world(x + 0.6, y - 0.4, 0))
    assert (flags == 0).all()
    assert np.median(-2.5 * np.log10(measured / flux)) == pytest.approx(0, abs=0.01)
    far, _, flags = star_photometry(frame, *frame.wcs.all_pix2world(x + 2, y, 0))
    assert (flags & PhotometryFlag.FORCED == PhotometryFlag.FORCED).all()
    assert (far < 0.8 * flux).all()


def test_errors_of_faint_stars_are_as_stated():
    """Stars of 4 sigma, forced at their true positions, with the PSF of a frame of bright ones."""
    rng = np.random.default_rng(2)
    x, y = grid(45, rng)  # no star in the annulus of another
    psf = frame_psf(make_frame(*(bright_ := grid(66, rng)), np.full(len(bright_[0]), 100.0)))
    frame = make_frame(x, y, np.full(x.size, 0.5), seed=3)
    measured, ivar, flags = star_photometry(frame, *frame.wcs.all_pix2world(x, y, 0), psf=psf)
    pull = (measured - 0.5) * np.sqrt(ivar)
    assert len(pull) == 224 and (flags == PhotometryFlag.FORCED).all()
    assert np.mean(pull) == pytest.approx(0, abs=4 / np.sqrt(224))
    assert np.std(pull) == pytest.approx(1, abs=0.15)
    # Matched filter: the variance is the sky's over the sum of the squared profile.
    matched = SIGMA / np.sqrt((moffat((41, 41), 20, 20) ** 2).sum())
    assert 1 / np.sqrt(np.median(ivar)) == pytest.approx(matched, rel=0.05)


def test_what_cannot_be_measured_is_flagged(bright):
    frame, x, y, _ = bright
    image = frame.image.copy()
    hit = round(y[3]) + 2, round(x[3]) - 1
    image[hit] = np.nan
    damaged = Frame(**(vars(frame) | {"image": image}))
    positions = [(x[3], y[3]), (-50.0, 100.0), (400.0, 3.0), (x[4], y[4])]
    ra, dec = frame.wcs.all_pix2world(*np.transpose(positions), 0)
    ra[1] = np.nan
    flux, ivar, flags = star_photometry(damaged, ra, dec, psf=frame_psf(frame))
    outside, bad = PhotometryFlag.OUTSIDE, PhotometryFlag.BAD_PIXELS
    assert flags.tolist() == [bad, outside, outside, 0]
    assert np.isnan(flux[:3]).all() and (ivar[:3] == 0).all()
    assert np.isfinite(flux[3]) and ivar[3] > 0


def test_extended_and_saturated_sources_fit_poorly(bright):
    frame, x, y, flux = bright
    psf = frame_psf(frame)
    galaxies = make_frame(x, y, np.full(x.size, 100.0), fwhm=3 * FWHM)
    clipped = Frame(**(vars(frame) | {"image": np.minimum(frame.image, 1.0)}))
    sky = frame.wcs.all_pix2world(x, y, 0)
    assert (star_photometry(galaxies, *sky, psf=psf)[2] & PhotometryFlag.POOR_FIT).all()
    saturated = star_photometry(clipped, *sky, psf=psf)[2] & PhotometryFlag.POOR_FIT != 0
    assert saturated[flux > 30].all() and not saturated[flux < 8].any()


def test_galaxies_do_not_make_the_psf():
    rng = np.random.default_rng(4)
    x, y = grid(66, rng)
    flux = np.full(x.size, 100.0)
    stars, galaxies = (
        make_frame(x[::2], y[::2], flux[::2]),
        make_frame(x[1::5], y[1::5], flux[1::5], fwhm=6.0),
    )
    both = Frame(**(vars(stars) | {"image": stars.image + galaxies.image}))
    np.testing.assert_allclose(frame_psf(both), frame_psf(stars), atol=0.01 * frame_psf(stars).max())


def test_a_frame_without_stars_is_named():
    with pytest.raises(ValueError, match=r"frame r of run 4510, camcol 4, field 30: 0 stars for the PSF"):
        frame_psf(make_frame([], [], []))
    with pytest.raises(ValueError, match="2 stars for the PSF; expected at least 3"):
        frame_psf(make_frame([200.0, 400.0], [300.0, 300.0], [100.0, 100.0]))


def calibobj(path, n=4, **columns):
    plain = {"FIELD": np.full(n, 30), "ID": np.arange(n), "RA": np.full(n, 200.0), "DEC": np.full(n, 30.0)}
    plain |= {"OBJC_TYPE": np.array([6, 6, 6, 3]), "OBJC_FLAGS": np.array([0, 8, 16, 0])}
    plain |= {"FLAGS": np.tile([0, 0, 1 << 18, 0, 0], (n, 1)), "PSFFLUX": np.tile(np.arange(5.0), (n, 1))}
    plain |= {"PSFFLUX_IVAR": np.ones((n, 5))} | columns
    formats = {"RA": "D", "DEC": "D", "FLAGS": "5J", "PSFFLUX": "5E", "PSFFLUX_IVAR": "5E"}
    table = [fits.Column(name, formats.get(name, "J"), array=a) for name, a in plain.items() if a is not None]
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(table)]).writeto(path)
    return path


def test_catalogue_of_a_field(tmp_path):
    path = calibobj(tmp_path / "calibObj.fits", FIELD=np.array([30, 30, 30, 30]))
    stars = read_calibobj(path, 30)
    assert stars["isolated"].tolist() == [True, False, False, False]
    assert stars["saturated_r"].all() and not stars["saturated_i"].any()
    assert stars["psf_flux_z"].tolist() == [4.0] * 4
    with pytest.raises(ValueError, match=r"calibObj\.fits: no stars of field 31; it has fields 30 to 30"):
        read_calibobj(path, 31)
    with pytest.raises(ValueError, match="no column PSFFLUX_IVAR; expected a calibObj table"):
        read_calibobj(calibobj(tmp_path / "short.fits", PSFFLUX_IVAR=None), 30)


# ------------------------------------------------------------------------------------------- with the data


@pytest.fixture(scope="module")
def real():
    files = registry.fetch("sdss_frames", download=False)
    catalogue = read_calibobj(files["sdss_frames/calibObj-004510-4-star.fits.gz"], field=30)
    folder = files["sdss_frames/frame-r-004510-4-0030.fits.bz2"].parent
    frames = {band: read_frame(path) for band, path in field_frames(folder, 4510, 4, 30).items()}
    return catalogue, frames, compare_stars(frames, catalogue)


def robust(values):
    middle = np.median(values)
    return middle, 1.4826 * np.median(np.abs(values - middle))


@needs_data
@pytest.mark.parametrize(
    ("band", "offset", "scatter"),
    [("u", 0.03, 0.06), ("g", 0.03, 0.05), ("r", 0.03, 0.05), ("i", 0.03, 0.05), ("z", 0.05, 0.05)],
)
def test_stars_of_a_real_field_agree_with_the_survey(real, band, offset, scatter):
    """Isolated, unsaturated stars with r < 20; the survey's magnitudes enter nowhere but here."""
    table = real[2]
    chosen = table[(table["band"] == band) & (table["r"] < 20) & table["isolated"] & ~table["saturated"]]
    assert len(chosen) == 20 and (chosen["flags"] & ~PhotometryFlag.FORCED == 0).all()
    middle, spread = robust(chosen["offset"])
    assert abs(middle) < offset and spread < scatter
    clipped = chosen["offset"][np.abs(chosen["offset"] - middle) < 3 * spread]
    assert len(clipped) >= 18 and clipped.std() < 0.06


@needs_data
def test_real_errors_are_those_of_the_sky(real):
    """Fluxes at random positions, mostly empty, scatter about zero as their inverse variances say."""
    rng = np.random.default_rng(5)
    for band, frame in real[1].items():
        x, y = rng.uniform(40, 2000, 400), rng.uniform(40, 1440, 400)
        flux, ivar, _ = star_photometry(frame, *frame.wcs.all_pix2world(x, y, 0))
        middle, spread = robust(flux * np.sqrt(ivar))
        assert abs(middle) < 0.25 and spread == pytest.approx(1, abs=0.2), band


@needs_data
def test_real_saturated_stars_are_flagged_or_known(real):
    table = real[2]
    bright = table[table["saturated"]]
    assert len(bright) > 10
    assert (bright["flags"] & PhotometryFlag.POOR_FIT != 0).mean() > 0.8
