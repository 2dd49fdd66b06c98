"""Light of galaxies added up in their pixels, under Gaussian weights that have the shape of the galaxy.

A weight that follows a galaxy is near to the filter that measures its flux with the least noise, and one
weight for all bands makes colours of the same stars. Weights from core to outskirts tell the colours of bulge
and disc apart, which total magnitudes do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from astro_utils.sky.surveys import Survey

__all__ = ["MAIN", "SCALES", "Shapes", "adaptive_shapes", "elliptical_light", "light_features"]

#: Sizes of the weights in units of the galaxy's own, and which of them stands for the galaxy.
SCALES = (0.5, 0.75, 1.0, 1.5, 2.2, 3.3)
MAIN = 3

_ITERATIONS, _BLOCK = 12, 512
#: Axes of an adaptive weight, variances in pixels^2, and its largest offset from the middle of the stamp.
_NARROW, _WIDE, _OFFSET = 1.0, 36.0, 1.5


@dataclass(frozen=True)
class Shapes:
    """Elliptical Gaussians, one an object.

    Attributes
    ----------
    x, y : numpy.ndarray
        (N,) centres, pixels from the middle of the stamp.
    xx, yy, xy : numpy.ndarray
        (N,) second moments, pixels^2.
    """

    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    yy: np.ndarray
    xy: np.ndarray

    @property
    def size(self) -> np.ndarray:
        """Standard deviation, mean of the axes in variance, pixels."""
        return np.sqrt((self.xx + self.yy) / 2)

    @property
    def ellipticity(self) -> np.ndarray:
        """(a^2 - b^2) / (a^2 + b^2) of the axes a and b."""
        return np.hypot((self.xx - self.yy) / 2, self.xy) / ((self.xx + self.yy) / 2)

    def squared_distance(self, side: int) -> np.ndarray:
        """Squared distance from the centre in units of the ellipse, (N, side * side) float32."""
        y, x = np.divmod(np.arange(side * side), side) - np.float32((side - 1) / 2)
        dx, dy = x - self.x[:, None], y - self.y[:, None]
        determinant = (self.xx * self.yy - self.xy**2)[:, None]
        form = self.yy[:, None] * dx**2 + self.xx[:, None] * dy**2 - 2 * self.xy[:, None] * dx * dy
        return (form / determinant).astype(np.float32)


def adaptive_shapes(stamps: np.ndarray) -> Shapes:
    """Fit an elliptical Gaussian to stamps (N, n, n): the weight whose moments are those that it measures.

    The weight of an iteration has twice the moments that the last one saw (Bernstein & Jarvis 2002, AJ 123,
    583, section 3.1); noise cannot make it smaller than a pixel or larger than the stamp.
    """
    n, side = len(stamps), stamps.shape[-1]
    light = np.ascontiguousarray(stamps.reshape(n, -1), dtype=np.float32)
    y, x = (axis.astype(np.float32) for axis in np.divmod(np.arange(side * side), side))
    x, y = x - np.float32((side - 1) / 2), y - np.float32((side - 1) / 2)
    basis = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], 1)  # (pixels, 6)
    shapes = Shapes(*np.zeros((2, n)), *np.full((2, n), 4.0), np.zeros(n))
    for _ in range(_ITERATIONS):
        weight = np.exp(-0.5 * shapes.squared_distance(side))
        total, *rest = ((weight * light) @ basis).astype(float).T
        seen = total > 0  # where the sky outweighs the object the weight stays as it was
        mx, my, xx, yy, xy = np.where(seen, np.array(rest) / np.where(seen, total, 1.0), 0.0)
        xx, yy, xy = xx - mx**2, yy - my**2, xy - mx * my
        # Under a weight of its own shape a Gaussian shows half of its displacement and of its moments.
        at_x, at_y = (2 * m - c for m, c in ((mx, shapes.x), (my, shapes.y)))
        found = _bounded(2 * xx, 2 * yy, 2 * xy)
        at = (np.clip(p, -_OFFSET, _OFFSET) for p in (at_x, at_y))
        old = (shapes.x, shapes.y, shapes.xx, shapes.yy, shapes.xy)
        shapes = Shapes(*(np.where(seen, a, b) for a, b in zip((*at, *found), old, strict=True)))
    return shapes


def _bounded(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clip the axes of ellipses and leave their directions."""
    mean, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    unit = np.where(half > 0, half, 1.0)
    cos, sin = (xx - yy) / 2 / unit, xy / unit
    low, high = np.clip(mean - half, _NARROW, _WIDE), np.clip(mean + half, _NARROW, _WIDE)
    mean, half = (high + low) / 2, (high - low) / 2
    return mean + half * cos, mean - half * cos, half * sin


def elliptical_light(images: np.ndarray, survey: Survey) -> tuple[np.ndarray, Shapes]:
    """Add up the light of stamps under elliptical Gaussian weights.

    Shape and centre come from all bands together, each in units of its sky noise.

    Parameters
    ----------
    images : numpy.ndarray
        (N, bands, n, n) nanomaggies per pixel.
    survey : Survey

    Returns
    -------
    light : numpy.ndarray
        (N, scales, bands) nanomaggies. Squares of the weights sum to one, so that the noise is that of a
        pixel, whatever the weight.
    shapes : Shapes
        Of the weight of scale one.

    Raises
    ------
    ValueError
        When the stamps are not square or have other bands than the survey.
    """
    n, bands, side, width = images.shape
    if side != width or bands != len(survey.bands):
        raise ValueError(
            f"stamps of shape {images.shape[1:]}; expected {len(survey.bands)} bands of square stamps"
        )
    noise = survey.sky_sigma.astype(np.float32)
    light, found = np.empty((n, len(SCALES), bands)), []
    for start in range(0, n, _BLOCK):
        block = np.asarray(images[start : start + _BLOCK], np.float32)
        shapes = adaptive_shapes(np.einsum("nbyx,b->nyx", block, 1 / noise))
        distance = shapes.squared_distance(side)
        weights = np.stack([np.exp(-0.5 * distance / s**2) for s in SCALES], 1)  # (block, scales, pixels)
        weights /= np.sqrt((weights**2).sum(2, keepdims=True))
        light[start : start + _BLOCK] = weights @ block.reshape(len(block), bands, -1).transpose(0, 2, 1)
        found.append(shapes)
    return light, Shapes(
        *(np.concatenate([getattr(s, name) for s in found]) for name in ("x", "y", "xx", "yy", "xy"))
    )


def light_features(light: np.ndarray, extinction: np.ndarray, survey: Survey) -> np.ndarray:
    """Features of the light under elliptical weights: one weight in full, and how the others differ.

    Colours of neighbouring weights are nearly the same number. Given as they stand, their differences, which
    tell bulge from disc, are a hundredth of what a network sees.

    Parameters
    ----------
    light : numpy.ndarray
        (N, scales, bands) nanomaggies, from :func:`elliptical_light`.
    extinction : numpy.ndarray
        (N, bands) magnitudes; light is corrected for it.
    survey : Survey
        Its noise of the sky is what magnitudes are softened by.

    Returns
    -------
    numpy.ndarray
        (N, 2 bands - 1 + bands (scales - 1)) float32: asinh magnitudes and colours under the weight
        :data:`MAIN`; then, from each weight to the next, the change of the magnitude in the reference band
        and of the colours.
    """
    bright = light * 10 ** (0.4 * extinction[:, None])
    magnitude = -2.5 / np.log(10) * np.arcsinh(bright / survey.sky_sigma / 2)
    colour = magnitude[..., :-1] - magnitude[..., 1:]
    growth = np.diff(magnitude[..., survey.index], axis=1)
    change = np.diff(colour, axis=1).reshape(len(light), -1)
    return np.concatenate([magnitude[:, MAIN], colour[:, MAIN], growth, change], 1).astype(np.float32)
