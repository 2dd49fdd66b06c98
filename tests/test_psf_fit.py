"""The fit of the wavefront's field: derivatives, recovery, errors of the size that theory expects."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from astro_utils.psf import Optics, PupilModel, WavefrontField, monomials, random_field
from astro_utils.psf.climb import damped_steps, quasi_newton_steps
from astro_utils.psf.field_likelihood import Evaluation, FieldLikelihood, StarImages, cheaper
from astro_utils.psf.fit import FitSettings, field_prior, fit_field
from astro_utils.psf.linearise import derivative_bytes, polychromatic_derivatives, zernike_derivatives

OPTICS = Optics(pupil_size=32, stamp=12, bins=3, modes=11, field_degree=2, field_grid=3)
BLUE, RED = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])


@pytest.fixture(scope="module")
def model():
    return PupilModel(OPTICS)


@pytest.fixture(scope="module")
def prior():
    return field_prior(OPTICS, fields=100)


def sky(model, n, seed, *, power=60.0):
    """Field, positions, spectra, images and noisy images of stars with a power ratio of signal to noise."""
    rng = np.random.default_rng(seed)
    field = random_field(model.optics, seed)
    positions = rng.uniform(*model.optics.field_limits, (n, 2))
    seds = np.where(rng.random(n)[:, None] < 0.5, BLUE, RED)
    images = render(model, field, positions, seds)
    sigma = np.sqrt((images**2).sum((1, 2)) / (power * model.optics.stamp**2))
    noisy = images + rng.normal(size=images.shape) * sigma[:, None, None]
    return field, positions, seds, images, noisy, sigma


@torch.no_grad()
def render(model, field, positions, seds):
    return model.polychromatic(model.opd(field(positions)), torch.tensor(seds)).double().numpy()


def relative_error(model, fitted, truth, seed=99):
    rng = np.random.default_rng(seed)
    positions = rng.uniform(*model.optics.field_limits, (100, 2))
    seds = np.tile(BLUE, (100, 1))
    images = render(model, truth, positions, seds)
    difference = render(model, fitted, positions, seds) - images
    return (np.linalg.norm(difference, axis=(1, 2)) / np.linalg.norm(images, axis=(1, 2))).mean()


@pytest.mark.parametrize("coarse", [1, 2])
@pytest.mark.parametrize("wavelengths", ["exact", "wf-psf"])
def test_derivatives_are_those_of_automatic_differentiation(coarse, wavelengths):
    model = PupilModel(replace(OPTICS, wavelengths=wavelengths), coarse=coarse, dtype=torch.float64)
    coefficients = random_field(OPTICS, 1)(np.array([[100.0, 900.0], [400.0, 300.0]]))
    weights = torch.tensor(np.stack([BLUE, RED]))
    monochromatic = zernike_derivatives(model, coefficients)
    stars, jacobian = polychromatic_derivatives(model, coefficients, weights)
    leaf = coefficients.clone().requires_grad_()
    value = model.monochromatic(model.opd(leaf))
    generator = torch.Generator().manual_seed(2)
    for _ in range(5):  # a random sum of pixels has the same sum of derivatives
        factors = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        (change,) = torch.autograd.grad((factors * value).sum(), leaf, retain_graph=True)
        expected = torch.einsum("nbyx,nbmyx->nm", factors, monochromatic)
        assert torch.allclose(expected, change[:, 1:], rtol=1e-9, atol=1e-11) and change.abs().max() > 0.1
    assert torch.allclose(jacobian, torch.einsum("nb,nbmyx->nmyx", weights, monochromatic), atol=1e-12)
    assert torch.allclose(stars, torch.einsum("nb,nbyx->nyx", weights, value.detach()), atol=1e-14)
    assert derivative_bytes(model, 2) == monochromatic.nbytes


def test_derivatives_want_a_spectrum_for_each_star(model):
    with pytest.raises(ValueError, match=r"sed has shape \(1, 3\); expected \(2, 3\)"):
        polychromatic_derivatives(model, torch.zeros(2, 11), torch.full((1, 3), 1 / 3))
    with pytest.raises(ValueError, match=r"expected \(B, 11\)"):
        zernike_derivatives(model, torch.zeros(2, 10))


@pytest.mark.parametrize("flux", ["unit", "free"])
@pytest.mark.parametrize("nodes", [None, 8])
def test_gradient_of_the_likelihood(flux, nodes):
    model = PupilModel(OPTICS, dtype=torch.float64)
    field, positions, seds, _, noisy, sigma = sky(model, 20, 3)
    likelihood = FieldLikelihood(model, StarImages.known(noisy, positions, seds, sigma, flux), nodes=nodes)
    at = 0.7 * field.coefficients[1:]
    direction = torch.from_numpy(np.random.default_rng(0).normal(size=at.shape)) / 1000
    slope = float((likelihood(at).gradient * direction).sum())
    difference = likelihood(at + 1e-3 * direction).loss - likelihood(at - 1e-3 * direction).loss
    assert slope == pytest.approx(difference / 2e-3, rel=1e-5)
    hot = likelihood(at, temperature=4.0)
    assert float((hot.gradient * direction).sum()) == pytest.approx(
        slope / 4, rel=1e-6 if flux == "unit" else 0.3
    )


def test_interpolated_stamps_give_the_same_likelihood(model):
    field, positions, seds, _, noisy, sigma = sky(model, 100, 3)
    stars = StarImages.known(noisy, positions, seds, sigma)
    exact, fast = (FieldLikelihood(model, stars, nodes=nodes)(field.coefficients[1:]) for nodes in (None, 12))
    assert fast.loss == pytest.approx(exact.loss, rel=1e-5)
    assert torch.allclose(fast.chi2, exact.chi2, rtol=1e-3)
    assert (fast.gradient - exact.gradient).norm() < 1e-2 * exact.gradient.norm()


@pytest.mark.parametrize(
    ("sites", "flux", "tolerance"), [(20, "unit", 1e-3), (20, "free", 1e-2), (4, "unit", 0.1)]
)
def test_curvature_is_that_of_the_loss(sites, flux, tolerance):
    model = PupilModel(OPTICS, dtype=torch.float64)
    field, positions, _, _, _, _ = sky(model, 60, 4)
    seds = np.tile(BLUE, (60, 1))
    images = render(model, field, positions, seds)  # without noise the Gauss-Newton matrix is exact
    stars = StarImages.known(images, positions, seds, 0.001, flux)
    likelihood, at = FieldLikelihood(model, stars, sites=sites), field.coefficients[1:]
    direction = torch.from_numpy(np.random.default_rng(0).normal(size=at.shape)) / 1e5
    loss = [likelihood(at + t * direction).loss for t in (-1, 0, 1)]
    h = likelihood.curvature(at, torch.ones(60, 1))
    expected = float(torch.einsum("am,ambn,bn->", direction, h, direction))
    assert loss[0] - 2 * loss[1] + loss[2] == pytest.approx(expected, rel=tolerance)
    small = likelihood.curvature(at, torch.ones(60, 1), cheaper(model, stamp=8))
    assert float(torch.einsum("am,ambn,bn->", direction, small, direction)) == pytest.approx(
        expected, rel=0.3
    )


class Valley:
    """A curved valley, (P,) parameters, of which the curvature is known but for some factors."""

    pixels = 1000

    def __init__(self, factors, bend=0.0):
        self.factors, self.bend, self.calls, self.curvatures = factors, bend, 0, 0
        self.axes = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)).double())[0]
        self.widths = torch.logspace(0, 4, 8).double()

    def __call__(self, z, temperature):
        self.calls += 1
        leaf = z.clone().requires_grad_()
        u = self.axes.T @ leaf - torch.arange(8) / 10
        u = torch.cat([u[:1], u[1:] - self.bend * (u[:1] - 1).square()])
        chi2 = (self.widths * u.square()).sum()
        (gradient,) = torch.autograd.grad(chi2 / 2 / temperature, leaf)
        values = Evaluation(0.0, gradient, chi2.detach()[None] + self.pixels, torch.ones(1, 1))
        return float(chi2.detach()) / 2 / temperature, gradient, values

    def curvature(self, z, probabilities, temperature):
        self.curvatures += 1
        return self.axes @ torch.diag(self.widths * self.factors) @ self.axes.T / temperature


def test_quasi_newton_steps_learn_what_the_metric_lacks():
    factors = torch.tensor([1, 4, 0.3, 1, 5, 2, 1, 0.5]).double()
    for bend in (0.1, 0.0):
        valley, history = Valley(factors, bend), []
        start = torch.full((8,), 5.0).double()
        z, loss, _ = quasi_newton_steps(valley, start, steps=60, tolerance=1e-9, history=history, stage="a")
        assert loss < 1e-8 * valley(start, 1.0)[0]
        assert valley.calls < 40 and valley.curvatures == 1
        assert loss == valley(z, 1.0)[0] == history[-1]["loss"]
        assert all(after["loss"] < before["loss"] for before, after in itertools.pairwise(history))
    # Without what the steps learn, the metric alone gets nowhere near in ten times as many.
    z, metric = start, torch.linalg.inv(valley.curvature(start, None, 1.0) + torch.eye(8))
    for _ in range(10 * len(history)):
        z = z - 0.3 * metric @ valley(z, 1.0)[1]
    assert valley(z, 1.0)[0] > 1e3 * loss


def test_damped_steps_end_where_they_are_told():
    valley, history = Valley(torch.ones(8).double(), 0.05), []
    start = torch.full((8,), 5.0).double()
    z, loss, value = damped_steps(valley, start, steps=60, enough=1.0, history=history, stage="a")
    assert 0 < loss < 10 and loss == valley(z, 1.0)[0] and float(value.chi2) == pytest.approx(1000 + 2 * loss)
    assert history[0]["temperature"] > 10  # far away the noise is raised to the residuals
    assert history[-1]["temperature"] == 1
    assert [row["iteration"] for row in history] == list(range(len(history)))
    hot: list = []
    z_hot, loss_hot, _ = damped_steps(valley, start, steps=1, enough=1.0, history=hot, stage="b")
    assert hot[-1]["temperature"] > 10 and loss_hot == valley(z_hot, 1.0)[0]
    again: list = []
    assert damped_steps(valley, z, steps=60, enough=20.0, history=again, stage="a")[1] == loss and not again


def test_stamps_without_noise_are_recovered():
    model = PupilModel(OPTICS, dtype=torch.float64)
    field, positions, seds, images, _, _ = sky(model, 25, 5)
    settings = FitSettings(starts=1, iterations=80, tolerance=0.01)
    fit = fit_field(model, StarImages.known(images, positions, seds, 1e-5), settings=settings)
    assert np.abs(render(model, fit.field, positions, seds) - images).max() < 1e-4 * images.max()
    assert relative_error(model, fit.field, field) < 1e-4


def test_error_falls_as_stars_are_added(model, prior):
    errors = []
    for n in (30, 480):
        fits = []
        for seed in (1, 2):
            field, positions, seds, _, noisy, sigma = sky(model, n, seed)
            settings = FitSettings(starts=2, subset=60, nodes=8)
            fit = fit_field(
                model, StarImages.known(noisy, positions, seds, sigma), settings=settings, prior=prior
            )
            assert abs(fit.excess) < 4
            fits.append(relative_error(model, fit.field, field))
        errors.append(np.mean(fits))
    assert errors[1] < 0.01
    assert 2.5 < errors[0] / errors[1] < 6  # four in theory


def test_prior_matters_where_stars_are_few(model, prior):
    with_prior, without = [], []
    for seed in (1, 2, 3):
        field, positions, seds, _, noisy, sigma = sky(model, 8, seed, power=20)
        stars = StarImages.known(noisy, positions, seds, sigma)
        with_prior.append(relative_error(model, fit_field(model, stars, prior=prior).field, field))
        without.append(relative_error(model, fit_field(model, stars, prior=1e4 * prior).field, field))
    assert np.mean(with_prior) < 0.7 * np.mean(without)


def test_prior_is_that_of_other_fields(prior):
    lower = torch.linalg.cholesky(prior)
    others = torch.cat([random_field(OPTICS, seed).coefficients for seed in range(100)])
    white = torch.linalg.solve_triangular(lower, others.T, upper=False)
    assert (white.square().mean(1) - 1).abs().max() < 0.2
    with pytest.raises(ValueError, match="1 fields are too few"):
        field_prior(OPTICS, fields=1)


def test_covariance_is_calibrated(model, prior):
    distances, pulls = [], []
    for seed in range(3):
        field, positions, seds, _, noisy, sigma = sky(model, 150, seed)
        # From the truth: what other fields give the same images is no matter of the covariance.
        stars = StarImages.known(noisy, positions, seds, sigma)
        fit = fit_field(model, stars, settings=FitSettings(subset=150, nodes=8), prior=prior, start=field)
        error = (fit.field.coefficients - field.coefficients)[1:].flatten()
        n = len(error)
        distances.append(float(error @ torch.linalg.solve(fit.covariance.reshape(n, n), error)) / n)
        at = np.random.default_rng(seed).uniform(0, 1000, (30, 2))
        covariance = fit.coefficient_covariance(at)
        terms = monomials(at, 2, (0.0, 1000.0))
        one = torch.einsum("ambn,m,n->ab", fit.covariance, terms[7], terms[7])
        assert torch.allclose(covariance[7], one)
        _, jacobian = polychromatic_derivatives(model, fit.field(at), torch.tensor(BLUE).expand(30, -1))
        jacobian = jacobian.double()
        sd = torch.einsum("nayx,nab,nbyx->nyx", jacobian, covariance, jacobian).sqrt().numpy()
        flat = np.tile(BLUE, (30, 1))
        difference = render(model, fit.field, at, flat) - render(model, field, at, flat)
        pulls.append((difference / sd)[:, 4:8, 4:8].std())
    assert 0.75 < np.mean(distances) < 1.3  # chi^2 of 180 numbers has a scatter of 0.1
    assert 0.8 < np.mean(pulls) < 1.25


def test_wrong_start_is_recognised(model, prior):
    field, positions, seds, _, noisy, sigma = sky(model, 60, 6)
    stars = StarImages.known(noisy, positions, seds, sigma)
    best = fit_field(model, stars, prior=prior)
    assert abs(best.excess) < 4
    assert best.start_log_posteriors == (best.log_posterior,)  # others would be made if this was stuck
    stuck = fit_field(
        model,
        stars,
        prior=prior,
        start=WavefrontField(-2 * field.coefficients),
        settings=FitSettings(iterations=1),
    )
    assert stuck.excess > 6
    assert stuck.log_posterior < best.log_posterior - 100
    near = fit_field(model, stars, prior=prior, start=field)
    assert near.log_posterior == pytest.approx(best.log_posterior, abs=5)
    quiet = fit_field(model, replace(stars, sigma=sigma / 1.3), prior=prior)
    assert quiet.excess > 10
    assert len(quiet.start_log_posteriors) == 3
    assert quiet.log_posterior == max(quiet.start_log_posteriors)
    assert {row["stage"] for row in quiet.history} == {"start 0", "start 1", "start 2"}


def test_free_flux_needs_no_scale(model, prior):
    field, positions, seds, _, noisy, sigma = sky(model, 100, 7)
    scale = np.random.default_rng(0).uniform(1, 1000, 100)
    stars = StarImages.known(noisy * scale[:, None, None], positions, seds, sigma * scale, flux="free")
    free = fit_field(model, stars, prior=prior)
    unit = fit_field(model, StarImages.known(noisy, positions, seds, sigma), prior=prior)
    assert relative_error(model, free.field, field) < 1.3 * relative_error(model, unit.field, field)
    assert abs(free.excess + 100 / np.sqrt(2 * 100 * 144)) < 4  # a flux is fitted to each star


def test_history_goes_down(model, prior):
    _, positions, seds, _, noisy, sigma = sky(model, 60, 8)
    settings = FitSettings(starts=1, subset=20, nodes=6)
    fit = fit_field(model, StarImages.known(noisy, positions, seds, sigma), settings=settings, prior=prior)
    assert {row["stage"] for row in fit.history} == {"start 0", "all stars"}
    for stage in ("start 0", "all stars"):
        rows = [row for row in fit.history if row["stage"] == stage]
        for before, after in itertools.pairwise(rows):
            assert after["temperature"] <= before["temperature"]
            assert after["loss"] <= before["loss"] or after["temperature"] < before["temperature"]
        assert rows[-1]["temperature"] == 1
    assert fit.seconds > 0
    assert fit.field.coefficients[0].abs().max() == 0


def test_bad_input(model, prior):
    _, positions, seds, _, noisy, sigma = sky(model, 5, 1)
    stars = StarImages.known(noisy, positions, seds, sigma)
    for change, message in (
        ({"stamps": noisy[:, :, :10]}, r"stamps have shape \(5, 12, 10\)"),
        ({"positions": positions[:4]}, r"positions of shape \(4, 2\) with 5 stamps; expected \(5, 2\)"),
        ({"sigma": np.array([1, 1, 0, 1, 1])}, "sigma of star 2 is wrong; expected a positive number"),
        ({"stamps": np.where(np.arange(5)[:, None, None] == 3, np.nan, noisy)}, "stamps of star 3 is wrong"),
        (
            {"candidates": 2 * seds[:, None]},
            "candidates of star 0 is wrong; expected spectra that sum to one",
        ),
        ({"log_prior": np.full((5, 1), -np.inf)}, "log_prior of star 0 is wrong; expected a possible"),
        ({"log_prior": np.zeros((5, 2))}, r"log_prior of shape \(5, 2\)"),
        ({"flux": "any"}, "flux is 'any'; expected one of"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(stars, **change)
    with pytest.raises(ValueError, match=r"sed has shape \(4, 3\); expected \(5, bins\)"):
        StarImages.known(noisy, positions, seds[:4], sigma)
    with pytest.raises(ValueError, match="spectra of 3 bins; the model has 12 and 4"):
        fit_field(PupilModel(replace(OPTICS, bins=4)), stars, prior=prior)
    with pytest.raises(ValueError, match=r"expected values from 0 to 1000"):
        fit_field(model, replace(stars, positions=positions - 1000), prior=prior)
    with pytest.raises(ValueError, match=r"prior has shape \(3, 3\); expected \(6, 6\)"):
        fit_field(model, stars, prior=prior[:3, :3])
    with pytest.raises(ValueError, match=r"start has shape \(11, 3\); expected \(11, 6\)"):
        fit_field(model, stars, prior=prior, start=WavefrontField(np.zeros((11, 3))))
    with pytest.raises(ValueError, match="nodes must be above 0, not 0"):
        FitSettings(nodes=0)
