"""Photometry and shapes of stamps whose truth is known: pulls, zero points, radii, symmetries."""

import galsim
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq
from scipy.special import gammainc

from astro_utils.sky.images import field_psf, render, with_noise
from astro_utils.sky.measure import Conditions, measure
from astro_utils.sky.profile_bank import RADII, SHAPES, profile_bank
from astro_utils.sky.surveys import LEGACY, SDSS, Survey

SIZE = 32
PER_OBJECT = ("psf_flux", "model_flux", "petro_flux")


def field(survey, e1=0.015, e2=-0.01):
    """The median field of a survey."""
    columns = {f"fwhm_{band}": seeing for band, seeing in zip(survey.bands, survey.seeing, strict=True)}
    return pd.Series(columns | {"e1": e1, "e2": e2})


def conditions(survey, e1=0.015, e2=-0.01):
    return Conditions(np.array(survey.seeing), survey.sky_sigma, np.array(survey.gain), e1, e2)


def stamps(kind, flux, n=1, radius=0.6, q=1.0, angle=0.0, at=None, survey=SDSS, size=SIZE, psf=None, seed=0):
    """Noiseless stamps of stars, de Vaucouleurs or exponential profiles, (N, bands, size, size)."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-0.5, 0.5, (2, n)) if at is None else np.broadcast_to(np.array(at)[:, None], (2, n))
    shapes = pd.DataFrame(
        {
            "x": x,
            "y": y,
            "bulge_radius": radius,
            "disc_radius": radius,
            "bulge_q": q,
            "disc_q": q,
            "angle": np.broadcast_to(angle, n),
        }
    )
    flux = np.broadcast_to(flux, (n, len(survey.bands))).astype(float)
    fluxes = [flux * (kind == name) for name in ("star", "dev", "exp")]
    psf = field_psf(survey, field(survey), size) if psf is None else psf
    return render(shapes, *fluxes, psf, survey, size)


def noisy(images, seed=0, survey=SDSS):
    return with_noise(images, survey.sky_sigma, np.array(survey.gain), np.random.default_rng(seed))


def measured(images, survey=SDSS, known=None, size=SIZE):
    return measure(images, survey, known or conditions(survey), profile_bank(survey.pixel_scale, size))


def nanomaggies(magnitude):
    return 10 ** (0.4 * (22.5 - magnitude))


def pull(result, name, flux):
    return (result[name] - flux) * np.sqrt(result[f"{name}_ivar"])


# ---------------------------------------------------------------------------------------------------- fluxes


@pytest.fixture(scope="module")
def stars():
    """Measured stars by magnitude."""
    return {
        magnitude: measured(
            noisy(stamps("star", nanomaggies(magnitude), 1200, seed=magnitude), seed=magnitude)
        )
        for magnitude in (18, 20, 22)
    }


@pytest.mark.parametrize("magnitude", [18, 20, 22])
def test_pulls_of_psf_fluxes_are_unit_normal(stars, magnitude):
    """In every band, whether the sky or the star's own photons make the noise."""
    deviate = pull(stars[magnitude], "psf_flux", nanomaggies(magnitude))
    np.testing.assert_array_less(np.abs(deviate.mean(0)), 0.1)
    np.testing.assert_allclose(deviate.std(0), 1, atol=0.1)


@pytest.mark.parametrize("magnitude", [18, 20, 22])
def test_error_of_a_psf_flux_is_that_of_the_survey(stars, magnitude):
    """Five sigma at the depth; of bright stars the photons count, weighted with the profile."""
    sigma = 1 / np.sqrt(np.median(stars[magnitude]["psf_flux_ivar"], axis=0))
    sky = nanomaggies(np.array(SDSS.depth)) / 5
    photons = np.sqrt(nanomaggies(magnitude) / np.array(SDSS.gain))
    assert (sigma > np.hypot(sky, photons)).all() and (sigma < 1.1 * np.hypot(sky, 1.25 * photons)).all()


@pytest.mark.parametrize("magnitude", [18, 20])
@pytest.mark.parametrize(("name", "tolerance"), [("psf_flux", 0.01), ("model_flux", 0.02)])
def test_zero_point_is_that_of_the_sky(stars, magnitude, name, tolerance):
    """A model flux has a radius to choose, which only ever adds a little light to a point."""
    ratio = np.median(stars[magnitude][name], axis=0) / nanomaggies(magnitude)
    bright = np.array(SDSS.depth) - magnitude > 2
    np.testing.assert_array_less(np.abs(-2.5 * np.log10(ratio))[bright], tolerance)


def test_positions_of_stars_are_found():
    x, y = np.random.default_rng(7).uniform(-0.5, 0.5, (2, 100))
    for magnitude, tolerance in ((16, 0.01), (20, 0.1)):
        images = np.concatenate(
            [stamps("star", nanomaggies(magnitude), at=at) for at in zip(x, y, strict=True)]
        )
        result = measured(noisy(images))
        assert np.std(result["x"] - x) < tolerance and np.std(result["y"] - y) < tolerance


def test_stars_are_points(stars):
    """The fitted radius of a bright star is a small part of the seeing; its moments are those of the PSF."""
    bright = stars[18]
    assert (bright["deVRad"][:, SDSS.index] < 0.1).mean() > 0.99
    expected = measured(stamps("star", 1e4))["moment_size"][0]
    assert np.median(bright["moment_size"]) == pytest.approx(expected, rel=0.01)


# --------------------------------------------------------------------------------------------------- profiles


@pytest.mark.parametrize("kind", ["dev", "exp"])
@pytest.mark.parametrize("radius", [0.2, 0.35, 0.6, 1.0])
def test_model_fluxes_of_pure_profiles_are_right_in_every_band(kind, radius):
    """Between the radii of the grid as well as near them; the angle is one of the templates'."""
    images = noisy(stamps(kind, nanomaggies(16), 40, radius=radius, q=0.7, angle=np.pi / 4))
    magnitude = -2.5 * np.log10(np.median(measured(images)["model_flux"], axis=0) / nanomaggies(16))
    np.testing.assert_array_less(np.abs(magnitude), 0.015)


@pytest.mark.parametrize("kind", ["dev", "exp"])
def test_model_fluxes_of_tilted_profiles_are_right_to_three_hundredths(kind):
    """Any axis ratio and angle: the templates have few."""
    angle = np.random.default_rng(1).uniform(0, np.pi, 60)
    for radius, q in ((0.35, 0.5), (0.6, 0.6), (0.9, 0.85)):
        images = noisy(stamps(kind, nanomaggies(16), 60, radius=radius, q=q, angle=angle))
        magnitude = -2.5 * np.log10(measured(images)["model_flux"] / nanomaggies(16))
        assert (np.abs(np.median(magnitude, axis=0)) < 0.03).all(), (radius, q)


@pytest.mark.parametrize("kind", ["dev", "exp"])
@pytest.mark.parametrize("radius", [0.35, 0.6, 1.0])
def test_profiles_are_told_apart_at_high_signal_to_noise(kind, radius):
    result = measured(noisy(stamps(kind, nanomaggies(16.5), 60, radius=radius)))
    assert (result["model_kind"] == ("dev", "exp").index(kind)).mean() > 0.95
    assert np.median(result["model_radius"]) == pytest.approx(radius, rel=0.05)
    assert (result["model_q"] == 1.0).mean() > 0.95


@pytest.mark.parametrize("q", [0.45, 0.7])
def test_axis_ratio_is_the_nearest_of_the_templates(q):
    result = measured(noisy(stamps("exp", nanomaggies(16.5), 40, radius=0.9, q=q, angle=np.pi / 2)))
    assert (result["model_q"] == q).mean() > 0.95


@pytest.mark.parametrize("magnitude", [16, 18.5])
@pytest.mark.parametrize("radius", [0.3, 0.5, 0.65, 1.0])
def test_de_vaucouleurs_radius_and_its_error(magnitude, radius):
    """In g, r and i: within five per cent, and scattered as claimed, be the noise photons or sky."""
    result = measured(noisy(stamps("dev", nanomaggies(magnitude), 300, radius=radius)))
    found = result["deVRad"][:, 1:4]
    np.testing.assert_allclose(np.median(found, axis=0), radius, rtol=0.05)
    low, high = np.percentile(found, [16, 84], axis=0)
    np.testing.assert_allclose((high - low) / 2, np.median(result["deVRad_err"][:, 1:4], axis=0), rtol=0.3)


@pytest.mark.parametrize("kind", ["dev", "exp"])
def test_claimed_error_of_model_fluxes_covers_the_scatter(kind):
    """At moderate signal to noise, the doubt about size and kind included."""
    result = measured(noisy(stamps(kind, nanomaggies(19.5), 400, radius=0.6)))
    deviate = pull(result, "model_flux", nanomaggies(19.5))[:, :4]
    low, high = np.percentile(deviate, [16, 84], axis=0)
    assert ((high - low) / 2 < 1.1).all() and ((high - low) / 2 > 0.7).all()
    assert (np.abs(deviate) < 4).mean() > 0.99


def test_doubt_about_the_kind_of_profile_is_in_the_error():
    """One galaxy in fourteen is taken for an exponential one: its flux is 3 sigma off, without doubt 4."""
    result = measured(noisy(stamps("dev", nanomaggies(20), 300, radius=0.9)))
    deviate = pull(result, "model_flux", nanomaggies(20))[:, SDSS.index]
    wrong = result["model_kind"] == 1
    assert 0.02 < wrong.mean() < 0.15 and deviate.std() < 1.25
    assert np.sqrt(np.mean(deviate[wrong] ** 2)) < 3.4


def test_errors_grow_as_objects_become_fainter():
    sigma = []
    for magnitude in (18, 19, 20, 21):
        result = measured(noisy(stamps("dev", nanomaggies(magnitude), 60, radius=0.6)))
        sigma.append(np.median(1 / np.sqrt(result["model_flux_ivar"]), axis=0) / nanomaggies(magnitude))
    assert (np.diff(sigma, axis=0) > 0).all()


def test_radii_stay_within_the_templates():
    images = np.concatenate([stamps("exp", nanomaggies(17), 5, radius=8.0), stamps("star", 1e3, 5)])
    result = measured(noisy(np.concatenate([images, 0 * images])))
    for name in ("deVRad", "model_radius"):
        largest = RADII[-1] / np.sqrt(min(q for q, _ in SHAPES)) if name == "deVRad" else RADII[-1]
        assert (result[name] >= 0).all() and (result[name] <= largest + 1e-9).all()
    assert np.isfinite(result["deVRad_err"]).all() and (result["deVRad_err"] >= 0).all()


# ------------------------------------------------------------------------------------------------- Petrosian


def petrosian(index, cut):
    """Petrosian radius (half-light radii), flux fraction, and radii of 50 and 90 % of a Sersic profile."""

    def growth(b, x):
        return gammainc(2 * index, b * np.minimum(x, cut) ** (1 / index)) / gammainc(
            2 * index, b * cut ** (1 / index)
        )

    b = brentq(lambda b: growth(b, 1.0) - 0.5, 0.5, 10)
    annulus = 1.25**2 - 0.8**2
    radius = brentq(
        lambda r: (growth(b, 1.25 * r) - growth(b, 0.8 * r)) / annulus - 0.2 * growth(b, r), 0.5, 10
    )
    flux = growth(b, 2 * radius)
    r50, r90 = (brentq(lambda r, s=share: growth(b, r) - s * flux, 1e-3, 20) for share in (0.5, 0.9))
    return radius, flux, r50, r90


@pytest.fixture(scope="module")
def large():
    """Profiles of 6.4 arcsec in a seeing of 0.84 arcsec on a stamp of 51 arcsec, without noise."""
    one = Survey(
        name="one",
        bands=("r",),
        filters=("sdss2010-r",),
        pixel_scale=0.4,
        seeing=(0.84,),
        depth=(22.7,),
        gain=(920.0,),
        extinction=(2.3,),
        zero_point=(0.0,),
        softening=(1.2e-10,),
    )
    psf = field_psf(one, pd.Series({"fwhm_r": 0.84, "e1": 0.0, "e2": 0.0}), 128)
    known = Conditions(np.array([0.84]), np.array([1e-3]), np.array([1e9]))
    images = np.concatenate(
        [
            stamps(kind, 1e3, radius=6.4, survey=one, size=128, psf=psf, at=(0.2, -0.3))
            for kind in ("exp", "dev")
        ]
    )
    return measured(images, one, known, 128)


def test_published_numbers_of_petrosian_quantities():
    """Strauss et al. (2002, AJ 124, 1810): 99 % of an exponential disc, 82 % of a de Vaucouleurs profile."""
    _, flux, r50, r90 = petrosian(1, 100.0)
    assert flux == pytest.approx(0.994, abs=0.002) and r90 / r50 == pytest.approx(2.3, abs=0.02)
    _, flux, r50, r90 = petrosian(4, 1e4)
    assert flux == pytest.approx(0.82, abs=0.01) and r90 / r50 == pytest.approx(3.33, abs=0.03)


@pytest.mark.parametrize(("row", "index", "cut"), [(0, 1, 100.0), (1, 4, 8.0)])
def test_petrosian_quantities_are_those_of_the_profile(large, row, index, cut):
    """The seeing takes some light out of the cusp of the de Vaucouleurs profile."""
    radius, flux, r50, r90 = petrosian(index, cut)
    tolerance = 0.02 if index == 1 else 0.06
    assert large["petro_radius"][row] / 6.4 == pytest.approx(radius, rel=tolerance)
    assert large["petro_flux"][row, 0] / 1e3 == pytest.approx(flux, rel=tolerance / 2)
    assert large["petro_r50"][row] / 6.4 == pytest.approx(r50, rel=tolerance)
    assert large["petro_r90"][row] / large["petro_r50"][row] == pytest.approx(r90 / r50, rel=tolerance)


def test_petrosian_fluxes_have_the_noise_of_their_aperture():
    result = measured(noisy(stamps("exp", nanomaggies(18), 400, radius=0.8)))
    flux, sigma = result["petro_flux"], 1 / np.sqrt(result["petro_flux_ivar"])
    np.testing.assert_allclose(flux.std(0), np.median(sigma, axis=0), rtol=0.3)


def test_petrosian_aperture_is_that_of_the_reference_band():
    """Fluxes of all bands in one aperture: the colour of a galaxy without gradients is its own."""
    result = measured(stamps("exp", [[50.0, 100.0, 100.0, 200.0, 400.0]], radius=1.2))
    np.testing.assert_allclose(
        result["petro_flux"][0] / result["petro_flux"][0, 2], [0.5, 1, 1, 2, 4], rtol=0.02
    )
    assert result["petro_r50"] < result["petro_r90"] < 2 * result["petro_radius"]


# ------------------------------------------------------------------------------------------------- symmetries


def round_field():
    return {"known": conditions(SDSS, 0.0, 0.0)}, field_psf(SDSS, field(SDSS, 0.0, 0.0), SIZE)


@pytest.mark.parametrize("kind", ["star", "dev", "exp"])
def test_a_turned_stamp_has_the_same_fluxes_and_radii(kind):
    known, psf = round_field()
    images = noisy(stamps(kind, nanomaggies(19), 20, radius=0.8, q=0.5, angle=0.3, psf=psf))
    first, turned = measured(images, **known), measured(np.rot90(images, axes=(2, 3)).copy(), **known)
    assert (turned["model_kind"] == first["model_kind"]).mean() > 0.9 or kind == "star"
    # Turning is exact but for the highest frequencies, of which a radius near 0 may make a little.
    tolerance = dict.fromkeys(PER_OBJECT, 1e-3) | {f"{name}_ivar": 0.2 for name in PER_OBJECT}
    tolerance |= {
        "deVRad": 0.02,
        "petro_radius": 0.01,
        "petro_r50": 0.01,
        "petro_r90": 0.01,
        "moment_size": 2e-3,
    }
    for name, share in tolerance.items():
        np.testing.assert_allclose(turned[name], first[name], rtol=share, atol=share, err_msg=name)
    # Counter-clockwise on the page, where y grows downwards in memory: x becomes -y, y becomes x.
    np.testing.assert_allclose([turned["y"], turned["x"]], [-first["x"], first["y"]], atol=1e-4)
    np.testing.assert_allclose(turned["moment_e1"], -first["moment_e1"], atol=1e-3)


@pytest.mark.parametrize("kind", ["star", "dev", "exp"])
def test_fluxes_do_not_depend_on_where_in_a_pixel_the_object_is(kind):
    places = [(0.0, 0.0), (0.5, 0.5), (0.25, -0.4), (-0.13, 0.31)]
    images = np.concatenate([stamps(kind, 1e3, radius=0.7, at=at) for at in places])
    result = measured(images)
    for name in PER_OBJECT:
        np.testing.assert_allclose(result[name], result[name][:1].repeat(4, 0), rtol=5e-3, err_msg=name)
    np.testing.assert_allclose(np.transpose([result["x"], result["y"]]), places, atol=0.02)


def test_units_of_flux_do_not_matter():
    """Image, noise and gain in other units: fluxes and errors in those units, everything else as before."""
    images = noisy(np.concatenate([stamps(kind, nanomaggies(19), 10) for kind in ("dev", "exp")]))
    known, factor = conditions(SDSS), 1e3
    other = Conditions(known.fwhm, known.sigma * factor, known.gain / factor, known.e1, known.e2)
    first, scaled = measured(images), measured(images * np.float32(factor), known=other)
    for name, values in first.items():
        power = {"flux": 1, "ivar": -2}.get(name.rsplit("_", 1)[-1], 0)
        np.testing.assert_allclose(scaled[name], values * factor**power, rtol=2e-3, atol=1e-3, err_msg=name)


def test_an_object_is_measured_alike_alone_and_in_company():
    images = noisy(stamps("dev", nanomaggies(19), 6))
    together, alone = measured(images), measured(images[3:4])
    for name, values in together.items():
        np.testing.assert_allclose(alone[name], values[3:4], rtol=1e-3, atol=1e-4, err_msg=name)


def test_bands_are_measured_each_on_its_own():
    images = noisy(stamps("star", nanomaggies(18), 5))
    other = images.copy()
    other[:, 4] *= 2
    first, second = measured(images), measured(other)
    np.testing.assert_allclose(second["psf_flux"][:, :4], first["psf_flux"][:, :4], rtol=2e-3)
    np.testing.assert_allclose(second["psf_flux"][:, 4], 2 * first["psf_flux"][:, 4], rtol=2e-3)


def test_surveys_of_fewer_bands_and_smaller_pixels_are_measured_as_well():
    images = stamps("star", nanomaggies(20), 200, survey=LEGACY)
    result = measured(noisy(images, survey=LEGACY), LEGACY)
    assert result["psf_flux"].shape == (200, 3)
    deviate = pull(result, "psf_flux", nanomaggies(20))
    np.testing.assert_allclose(deviate.std(0), 1, atol=0.15)
    np.testing.assert_array_less(np.abs(deviate.mean(0)), 0.25)


# ---------------------------------------------------------------------------------------------------- moments


def test_moments_of_a_gaussian_are_its_own():
    """Sigma is the fourth root of the determinant; the pixel adds a twelfth of its square to each axis."""
    sigma, e1, e2 = 0.9, 0.15, -0.1
    profile = galsim.Gaussian(sigma=sigma, flux=100.0).shear(e1=e1, e2=e2)
    image = profile.drawImage(
        nx=SIZE, ny=SIZE, scale=SDSS.pixel_scale, offset=(0.3, -0.2), dtype=np.float32
    ).array
    result = measured(np.broadcast_to(image, (1, 5, SIZE, SIZE)).copy())
    pixel = SDSS.pixel_scale**2 / 12
    assert result["moment_size"][0] == pytest.approx(np.sqrt(sigma**2 + pixel), rel=0.01)
    trace = (1 + pixel / sigma**2) / np.sqrt(1 - e1**2 - e2**2)  # round pixels dilute the shear
    assert result["moment_e1"][0] == pytest.approx(e1 / trace / np.sqrt(1 - e1**2 - e2**2), rel=0.05)
    assert result["moment_e2"][0] == pytest.approx(e2 / trace / np.sqrt(1 - e1**2 - e2**2), rel=0.05)


def test_moments_that_do_not_converge_are_nan_and_nothing_else_is():
    result = measured(noisy(np.zeros((30, 5, SIZE, SIZE), dtype=np.float32)))
    failed = np.isnan(result["moment_size"])
    assert 0 < failed.sum()
    np.testing.assert_array_equal(failed, np.isnan(result["moment_e1"]))
    for name, values in result.items():
        assert name.startswith("moment") or np.isfinite(values).all(), name


# -------------------------------------------------------------------------------------------------- bad input


def test_blank_bands_have_no_flux_no_inverse_variance_and_a_flag():
    images = noisy(stamps("star", nanomaggies(18), 3))
    images[0] = 0
    images[1, 4] = 0
    result = measured(images)
    np.testing.assert_array_equal(result["blank"], [True, True, False])
    blank = np.array([[True] * 5, [False] * 4 + [True], [False] * 5])
    for name in PER_OBJECT:
        np.testing.assert_array_equal(result[name] == 0, blank)
        np.testing.assert_array_equal(result[f"{name}_ivar"] == 0, blank)
    assert (result["psf_flux"][1, :4] > 50).all()
    for name, values in result.items():
        assert name.startswith("moment") or np.isfinite(values).all(), name


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_no_numbers_are_refused(value):
    images = stamps("star", 100.0, 4)
    images[2, 1, 5, 7] = value
    with pytest.raises(ValueError, match="stamp 2 holds NaN or infinite pixels"):
        measured(images)


def test_stamps_of_another_survey_are_refused():
    with pytest.raises(ValueError, match=r"stamps have 3 bands; sdss has 5 \(u, g, r, i, z\)"):
        measured(np.zeros((1, 3, SIZE, SIZE), dtype=np.float32))


def test_stamps_of_another_size_are_refused():
    with pytest.raises(ValueError, match="stamps have 24 x 32 pixels; the templates 32 x 32"):
        measured(np.zeros((1, 5, 24, 32), dtype=np.float32))
