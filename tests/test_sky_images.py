"""Images against GalSim's own convolution and drawing, and noise against its variance."""

import galsim
import numpy as np
import pandas as pd
import pytest

from astro_utils.sky.images import (
    de_vaucouleurs,
    exponential,
    field_psf,
    fourier_size,
    psf_profile,
    render,
    with_noise,
)
from astro_utils.sky.profile_bank import KINDS, RADII, SHAPES, profile_bank
from astro_utils.sky.surveys import SDSS, SURVEYS, draw_fields

SIZE = 32
every_survey = pytest.mark.parametrize("survey", SURVEYS.values(), ids=SURVEYS)

#: Fluxes of point source, bulge and disc; radii, axis ratios and angle; offset from the centre in pixels.
SOURCES = {
    "star": ((1, 0, 0), (0.5, 0.5), (1.0, 1.0), 0.0, (0.37, -0.21)),
    "star in the middle": ((1, 0, 0), (0.5, 0.5), (1.0, 1.0), 0.0, (0.0, 0.0)),
    "small bulge": ((0, 1, 0), (0.3, 0.5), (0.7, 0.5), 0.4, (-0.5, 0.5)),
    "round bulge": ((0, 1, 0), (1.2, 0.5), (1.0, 0.5), 0.0, (0.11, 0.49)),
    "edge-on disc": ((0, 0, 1), (0.5, 0.8), (0.9, 0.22), 1.0, (0.3, 0.1)),
    "face-on disc": ((0, 0, 1), (0.5, 1.2), (0.9, 1.0), 0.0, (-0.2, -0.4)),
    "bulge and disc": ((0, 0.4, 0.6), (0.5, 1.0), (0.8, 0.5), 2.5, (0.25, -0.35)),
    "host of a quasar": ((0.5, 0.2, 0.3), (0.4, 0.9), (0.8, 0.6), 1.7, (-0.31, 0.02)),
}


def field(survey, seed=0):
    return draw_fields(survey, 1, np.random.default_rng(seed)).iloc[0]


def shape(radii, q, angle, at):
    return pd.DataFrame(
        {
            "x": [at[0]],
            "y": [at[1]],
            "bulge_radius": [radii[0]],
            "disc_radius": [radii[1]],
            "bulge_q": [q[0]],
            "disc_q": [q[1]],
            "angle": [angle],
        }
    )


def drawn(survey, source, conditions, size=SIZE):
    fluxes, *rest = source
    one = np.ones((1, len(survey.bands)))
    return render(
        shape(*rest), *(one * f for f in fluxes), field_psf(survey, conditions, size), survey, size
    )[0]


def drawn_by_galsim(survey, source, conditions, band, size=SIZE):
    """Profiles convolved with PSF and pixel by GalSim, with its own choice of method and accuracy."""
    (point, bulge, disc), radii, q, angle, at = source
    psf = galsim.Moffat(beta=survey.moffat_beta, fwhm=conditions[f"fwhm_{band}"])
    psf = psf.shear(e1=conditions["e1"], e2=conditions["e2"])
    parts = [psf * point] if point else []
    for flux, profile, ratio in (
        (bulge, de_vaucouleurs(radii[0]), q[0]),
        (disc, exponential(radii[1]), q[1]),
    ):
        if flux:
            sheared = profile.shear(q=ratio, beta=angle * galsim.radians)
            parts.append(galsim.Convolve(sheared, psf) * flux)
    images = [
        part.drawImage(nx=size, ny=size, scale=survey.pixel_scale, offset=at, method="auto", dtype=float)
        for part in parts
    ]
    return sum(image.array for image in images)


# --------------------------------------------------------------------------------------------- against GalSim


@every_survey
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_images_equal_those_of_galsim(survey, source):
    conditions = field(survey)
    images = drawn(survey, source, conditions)
    assert images.dtype == np.float32 and images.shape == (len(survey.bands), SIZE, SIZE)
    for image, band in zip(images, survey.bands, strict=True):
        expected = drawn_by_galsim(survey, source, conditions, band)
        np.testing.assert_allclose(image, expected, atol=1e-3 * expected.max())
        assert image.sum() == pytest.approx(expected.sum(), rel=1e-3)


@pytest.mark.parametrize("size", [16, 48])
def test_other_sizes_of_stamp_show_the_same_sky(size):
    conditions = field(SDSS)
    source = SOURCES["bulge and disc"]
    large, other = drawn(SDSS, source, conditions, 64), drawn(SDSS, source, conditions, size)
    cut = slice(32 - size // 2, 32 + size // 2)
    np.testing.assert_allclose(other, large[:, cut, cut], atol=2e-4 * large.max())


def test_a_large_galaxy_is_right_in_a_large_stamp_and_wraps_in_a_small_one():
    """The limit that the module states: a sixth of the stamp's side, along the major axis."""
    conditions, side = field(SDSS), 32 * SDSS.pixel_scale
    for fraction, exact in ((6.0, True), (2.0, False)):
        source = ((0, 1, 0), (side / fraction, 1.0), (1.0, 1.0), 0.0, (0.2, 0.1))
        image = drawn(SDSS, source, conditions)[SDSS.index]
        expected = drawn_by_galsim(SDSS, source, conditions, "r")
        assert (np.abs(image - expected).max() < 1e-3 * expected.max()) is np.bool_(exact)


# ------------------------------------------------------------------------------------------------ properties


@pytest.mark.parametrize("name", ["star", "small bulge", "edge-on disc", "bulge and disc"])
def test_flux_is_conserved(name):
    """In 25 arcsec all but the far wings of the Moffat profile are on the stamp."""
    images = drawn(SDSS, SOURCES[name], field(SDSS), 64)
    np.testing.assert_allclose(images.sum(axis=(1, 2)), 1, atol=5e-3)
    assert images.min() > -3e-4 * images.max()


@pytest.mark.parametrize("name", SOURCES)
def test_sources_are_where_they_were_put(name):
    """First moments of the flux, x along the last axis; the PSF and all profiles are symmetric."""
    source = SOURCES[name]
    images = drawn(SDSS, source, field(SDSS), 64).astype(float)
    grid = np.arange(64) - 31.5
    for image in images:
        x, y = image.sum(0) @ grid / image.sum(), image.sum(1) @ grid / image.sum()
        # What the stamp cuts off the wings on one side pulls by a few thousandths of a pixel.
        assert (x, y) == pytest.approx(source[-1], abs=0.02)


def test_images_are_linear_in_flux():
    conditions = field(SDSS)
    psf = field_psf(SDSS, conditions, SIZE)
    flux = np.array([[3.0, 10.0, 20.0, 30.0, 40.0]])
    shapes = shape((0.6, 1.1), (0.8, 0.4), 0.7, (0.1, 0.2))
    zero = np.zeros_like(flux)
    parts = [
        render(shapes, *f, psf, SDSS, SIZE)
        for f in ((flux, zero, zero), (zero, flux, zero), (zero, zero, flux))
    ]
    whole = render(shapes, 2 * flux, 5 * flux, flux, psf, SDSS, SIZE)
    np.testing.assert_allclose(whole, 2 * parts[0] + 5 * parts[1] + parts[2], atol=1e-5 * whole.max())
    # Each band has its own flux: bands differ by it and by the seeing alone.
    np.testing.assert_allclose(whole.sum(axis=(2, 3)) / flux, 8, rtol=0.05)


def test_objects_of_a_block_do_not_touch_each_other():
    conditions = field(SDSS)
    psf = field_psf(SDSS, conditions, SIZE)
    table = pd.concat([shape(*source[1:]) for source in SOURCES.values()], ignore_index=True)
    fluxes = np.array([source[0] for source in SOURCES.values()], dtype=float).T[..., None] * np.ones(5)
    together = render(table, *fluxes, psf, SDSS, SIZE)
    for i, source in enumerate(SOURCES.values()):
        np.testing.assert_array_equal(together[i], drawn(SDSS, source, conditions))


def test_shapes_of_components_without_flux_are_not_read():
    """Stars have no radius: a table of stars alone need not have the columns, and NaN does no harm."""
    conditions = field(SDSS)
    psf, one = field_psf(SDSS, conditions, SIZE), np.ones((1, 5))
    star = pd.DataFrame({"x": [0.1], "y": [-0.2]})
    image = render(star, one, 0 * one, 0 * one, psf, SDSS, SIZE)
    empty = shape((np.nan, np.nan), (np.nan, np.nan), np.nan, (0.1, -0.2))
    np.testing.assert_array_equal(image, render(empty, one, 0 * one, 0 * one, psf, SDSS, SIZE))
    disc = shape((np.nan, 1.0), (np.nan, 0.5), 0.3, (0.0, 0.0))
    assert np.isfinite(render(disc, 0 * one, 0 * one, one, psf, SDSS, SIZE)).all()


def test_turning_the_angle_turns_the_image():
    """By 90 degrees from +x to +y: the image is that of a round PSF turned about its middle."""
    conditions = field(SDSS).copy()
    conditions[["e1", "e2"]] = 0.0
    first, turned = (
        drawn(SDSS, ((0, 0, 1), (1, 1.2), (1, 0.3), angle, (0, 0)), conditions)
        for angle in (0.3, 0.3 + np.pi / 2)
    )
    np.testing.assert_allclose(turned, np.rot90(first, -1, axes=(1, 2)), atol=1e-4 * first.max())
    # The major axis of a disc at 0 lies along x.
    along_x = drawn(SDSS, ((0, 0, 1), (1, 1.2), (1, 0.3), 0.0, (0, 0)), conditions)[2]
    assert along_x.sum(0)[8] > 3 * along_x.sum(1)[8]


# ------------------------------------------------------------------------------------------------------- PSF


@every_survey
@pytest.mark.parametrize("fwhm", [0.9, 1.4])
def test_psf_has_the_width_asked_for(survey, fwhm):
    """Along a finely drawn cut: half the peak at half the FWHM."""
    psf = psf_profile(survey, fwhm)
    peak = psf.xValue(0, 0)
    assert psf.xValue(fwhm / 2, 0) == pytest.approx(peak / 2, rel=1e-6) == psf.xValue(0, fwhm / 2)
    assert psf.flux == pytest.approx(1)
    # Moffat's wings: (1 + (r / alpha)^2)^-beta.
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / survey.moffat_beta) - 1)
    assert psf.xValue(3 * fwhm, 0) / peak == pytest.approx(
        (1 + (3 * fwhm / alpha) ** 2) ** -survey.moffat_beta, rel=1e-3
    )


def test_psf_of_a_field_is_sheared_and_keeps_its_area():
    conditions = field(SDSS).copy()
    conditions[["e1", "e2"]] = 0.08, -0.03
    image = galsim.Image(drawn(SDSS, SOURCES["star in the middle"], conditions)[2].astype(float))
    moments = galsim.hsm.FindAdaptiveMom(image)
    assert moments.observed_shape.e1 == pytest.approx(0.08, abs=0.02)
    assert moments.observed_shape.e2 == pytest.approx(-0.03, abs=0.01)


def test_seeing_of_each_band_is_its_own():
    conditions = field(SDSS).copy()
    conditions[[f"fwhm_{b}" for b in "ugriz"]] = [2.0, 1.8, 1.6, 1.4, 1.2]
    peaks = drawn(SDSS, SOURCES["star in the middle"], conditions).max(axis=(1, 2))
    assert (np.diff(peaks) > 0).all()


# ----------------------------------------------------------------------------------------------------- noise


def test_noise_of_sky_and_source_has_the_stated_variance():
    """Poisson counts of flux x gain electrons have a variance of flux / gain, in nanomaggies squared."""
    sigma, gain = np.array([0.5, 0.1]), np.array([100.0, 2000.0])
    flux = np.array([0.0, 3.0, 400.0])
    images = np.broadcast_to(flux[:, None, None, None], (3, 2, 150, 150)).astype(np.float32)
    noisy = with_noise(images, sigma, gain, np.random.default_rng(0))
    assert noisy.dtype == np.float32
    difference = (noisy - images).astype(float)
    expected = sigma**2 + flux[:, None] / gain
    np.testing.assert_allclose(difference.var(axis=(2, 3)), expected, rtol=5 * np.sqrt(2 / 150**2))
    np.testing.assert_array_less(np.abs(difference.mean(axis=(2, 3))), 5 * np.sqrt(expected) / 150)
    neighbours = difference[..., 1:] * difference[..., :-1]
    np.testing.assert_array_less(np.abs(neighbours.mean(axis=(2, 3))), 5 * expected / 150)


def test_noise_does_not_change_the_images_and_depends_on_the_generator():
    images = np.ones((1, 5, 8, 8), dtype=np.float32)
    first, again, other = (
        with_noise(images, SDSS.sky_sigma, np.array(SDSS.gain), np.random.default_rng(s)) for s in (0, 0, 1)
    )
    assert (images == 1).all()
    np.testing.assert_array_equal(first, again)
    assert not np.isclose(first, other).any()


def test_negative_pixels_have_the_noise_of_the_sky():
    images = np.full((1, 1, 200, 200), -5.0, dtype=np.float32)
    noisy = with_noise(images, np.array([0.3]), np.array([10.0]), np.random.default_rng(2))
    assert noisy.std() == pytest.approx(0.3, rel=0.02)


# -------------------------------------------------------------------------------------------- profile bank


@pytest.fixture(scope="module")
def templates():
    return profile_bank(SDSS.pixel_scale, SIZE).templates(SDSS, 1.3, 0.02, -0.01)


def test_templates_are_images_of_their_profiles(templates):
    assert templates.shape == (len(KINDS), len(RADII), len(SHAPES), SIZE**2)
    psf = psf_profile(SDSS, 1.3, 0.02, -0.01)
    for kind, radius, shape_index in ((0, 3, 0), (0, 5, 2), (1, 4, 8), (1, 6, 3)):
        q, angle = SHAPES[shape_index]
        profile = (de_vaucouleurs, exponential)[kind](RADII[radius]).shear(q=q, beta=angle * galsim.degrees)
        expected = galsim.Convolve(profile, psf).drawImage(nx=SIZE, ny=SIZE, scale=SDSS.pixel_scale).array
        np.testing.assert_allclose(
            templates[kind, radius, shape_index].reshape(SIZE, SIZE), expected, atol=1e-3 * expected.max()
        )


def test_templates_of_radius_nought_are_the_psf(templates):
    expected = psf_profile(SDSS, 1.3, 0.02, -0.01).drawImage(nx=SIZE, ny=SIZE, scale=SDSS.pixel_scale).array
    for template in templates[:, 0].reshape(-1, SIZE, SIZE):
        np.testing.assert_allclose(template, expected, atol=1e-3 * expected.max())


def test_larger_templates_are_fainter_in_the_middle_and_lose_light(templates):
    peaks, fluxes = templates.max(-1)[:, :, 0], templates.sum(-1)[:, :, 0]
    assert (np.diff(peaks, axis=1) < 0).all() and (np.diff(fluxes, axis=1) < 1e-4).all()
    assert (fluxes[:, 0] > 0.99).all() and (fluxes[:, -1] < 0.75).all()


def test_the_bank_is_drawn_once_for_each_survey_and_size():
    assert profile_bank(SDSS.pixel_scale, SIZE) is profile_bank(SDSS.pixel_scale, SIZE)
    assert profile_bank(0.25, 16).transforms.shape[-2] == fourier_size(16)
