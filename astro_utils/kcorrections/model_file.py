"""A trained predictor of K as one file: kernels, the features that they want, the range and errors they know.

Such a model sees what every catalogue has, colours and one magnitude, and a redshift if it is of that track.
It is fitted in seconds and holds nothing but arrays, so that a file can be shared and read without trust.

    model = fit_k_model(photometry, k, groups, system="SDSS", track="redshift", truth="ugriz fit", sky="real")
    save_k_model("k.safetensors", model)
    k = load_k_model("k.safetensors").predict(others)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from astro_utils.kcorrections.features import Features
from astro_utils.kcorrections.kcorrect_fit import SYSTEM_RESPONSES
from astro_utils.kcorrections.kernel import KernelRegression
from astro_utils.kcorrections.polynomials import KPolynomial
from astro_utils.kcorrections.real_sample import Photometry
from astro_utils.photometry import SDSS_BANDS, SDSS_SOFTENING, asinh_magnitudes
from astro_utils.results import atomic

__all__ = [
    "SOFTENING",
    "TRACKS",
    "KModel",
    "catalogue_features",
    "check_bands",
    "load_k_model",
    "predict_k",
    "save_k_model",
]

#: What a model is told beside the photometry.
TRACKS = ("no redshift", "redshift")

_FORMAT, _VERSION = "astro_utils k-correction model", 1

#: Depths of the Legacy Surveys for a galaxy at five sigma, AB magnitudes (Dey et al. 2019, AJ 157, 168).
_LEGACY_DEPTH = {"g": 24.0, "r": 23.4, "z": 22.5, "i": 23.0}

#: Softening of asinh magnitudes by system and band, maggies: SDSS's own; elsewhere the noise of one source.
SOFTENING = {
    system: {band: 10 ** (-0.4 * _LEGACY_DEPTH[band]) / 5 for band in responses}
    for system, responses in SYSTEM_RESPONSES.items()
    if system != "SDSS"
} | {"SDSS": dict(zip(SDSS_BANDS, SDSS_SOFTENING.tolist(), strict=True))}

#: Length scales of the kernels by kind of feature and track, in spreads; those of the predictors in
_ARRAYS = ("centres", "weights", "middle", "spread", "lengths", "mean")


def catalogue_features(
    photometry: Photometry, system: str, bands: tuple[str, ...], *, errors: bool = False
) -> tuple[Features, tuple[str, ...]]:
    """Features that can be had of any catalogue: asinh r magnitude, colours, and logarithms of the errors.

    Parameters
    ----------
    photometry : Photometry
        With at least `bands`; fluxes are corrected for the extinction that it has.
    system : str
        A name in :data:`astro_utils.kcorrections.kcorrect_fit.SYSTEM_RESPONSES`.
    bands : tuple of str
        Two or more from blue to red, with r.
    errors : bool
        Whether the errors are features. Within a survey they tell the size of a galaxy; elsewhere they
        mislead.

    Returns
    -------
    features : Features
        (N, F), of kinds magnitude, colour and error. An error is NaN where a band is not measured.
    names : tuple of str
        (F,) such as ``"g-r"``.
    """
    softening = np.array([SOFTENING[system][band] for band in bands])
    magnitude, error = asinh_magnitudes(*photometry.only(bands).dereddened(), softening)
    values, kinds, names = [magnitude[:, bands.index("r")]], ["magnitude"], ["r"]
    for k in range(len(bands) - 1):
        values.append(magnitude[:, k] - magnitude[:, k + 1])
        kinds.append("colour")
        names.append(f"{bands[k]}-{bands[k + 1]}")
    if errors:
        values += list(np.log(error).T)
        kinds += ["error"] * len(bands)
        names += [f"log error {band}" for band in bands]
    return Features(np.stack(values, 1), tuple(kinds)), tuple(names)


@dataclass(frozen=True, eq=False)
class KModel:
    """Kernels that predict K from a catalogue's photometry, and what must be known to apply them.

    Attributes
    ----------
    system : str
        Photometric system whose fluxes it was fitted to.
    bands : tuple of str
        Bands it wants, with r.
    track : str
        One of :data:`TRACKS`.
    band, band_shift : str, float
        K is from the observed `band` to the SDSS band of that name at `band_shift`.
    errors : bool
        Whether errors are among the features.
    names : tuple of str
        (F,) features, the redshift last where it is one.
    kernels : tuple of KernelRegression
        Their mean is K, or what is added to the mean of K at the redshift.
    mean : KPolynomial or None
        That mean, for the track with redshift.
    low, high : numpy.ndarray
        (F,) range of the training set.
    level : float
        Coverage of the intervals.
    edges, widths : numpy.ndarray
        (B - 1,) edges between bins in redshift, or in predicted K for the track without, and (B,) half widths
        of the intervals, mag.
    truth, sky : str
        What the training K are, and ``"real"`` or ``"simulated"``.
    n_train : int
        Galaxies in the training set.
    """

    system: str
    bands: tuple[str, ...]
    track: str
    band: str
    band_shift: float
    errors: bool
    names: tuple[str, ...]
    kernels: tuple[KernelRegression, ...]
    mean: KPolynomial | None
    low: np.ndarray
    high: np.ndarray
    level: float
    edges: np.ndarray
    widths: np.ndarray
    truth: str
    sky: str
    n_train: int

    def features(self, photometry: Photometry) -> np.ndarray:
        """Features of galaxies, (N, F); NaN where an error or the redshift is one and is not known."""
        values = catalogue_features(photometry, self.system, self.bands, errors=self.errors)[0].values
        return np.column_stack([values, photometry.z]) if self.track == "redshift" else values

    def predict(self, photometry: Photometry) -> np.ndarray:
        """K of galaxies, (N,) mag.

        Raises
        ------
        ValueError
            When the photometry lacks a band, or a feature is not finite.
        """
        return predict_k(self.kernels, self.mean, self.features(photometry))

    def half_width(self, photometry: Photometry, k: np.ndarray) -> np.ndarray:
        """Half width of the interval around predicted K (N,), (N,) mag."""
        by = photometry.z if self.track == "redshift" else k
        return self.widths[np.searchsorted(self.edges, by, side="right")]

    def outside(self, photometry: Photometry) -> list[str]:
        """Names of the features of each galaxy that lie outside the training range, joined by commas."""
        values = self.features(photometry)
        off = (values < self.low) | (values > self.high)
        return [", ".join(np.array(self.names)[row]) for row in off]


def predict_k(
    kernels: tuple[KernelRegression, ...], mean: KPolynomial | None, values: np.ndarray
) -> np.ndarray:
    """Mean of the kernels at features (N, F), on top of the polynomial in the last one; (N,) mag."""
    added = np.mean([kernel.predict(values) for kernel in kernels], axis=0)
    return added if mean is None else added + mean(values[:, -1:])


def check_bands(bands: tuple[str, ...], system: str, band: str) -> None:
    """Refuse bands that a system lacks, or from which K of `band` cannot be had."""
    unknown = [name for name in bands if name not in SYSTEM_RESPONSES[system]]
    if unknown or len(bands) < 2 or "r" not in bands or band not in bands:
        raise ValueError(
            f"bands {', '.join(bands)} for K of {band} in {system}; expected two or more of "
            f"{', '.join(SYSTEM_RESPONSES[system])} with r and {band} among them"
        )


# ------------------------------------------------------------------------------------------------- files

_FACTS = (
    "system",
    "bands",
    "track",
    "band",
    "band_shift",
    "errors",
    "names",
    "level",
    "truth",
    "sky",
    "n_train",
)


def save_k_model(path: str | Path, model: KModel) -> None:
    """Write a model as safetensors, with its description in the header."""
    tensors = {name: getattr(model, name) for name in ("low", "high", "edges", "widths")}
    for i, kernel in enumerate(model.kernels):
        tensors |= {f"kernel.{i}.{name}": np.asarray(getattr(kernel, f"_{name}")) for name in _ARRAYS}
    if model.mean is not None:
        tensors |= {f"polynomial.{name}": values for name, values in vars(model.mean).items()}
    header = {name: getattr(model, name) for name in _FACTS}
    header |= {"format": _FORMAT, "version": _VERSION, "members": len(model.kernels)}
    with atomic(path) as temporary:
        save_file(
            {name: np.array(values, order="C") for name, values in tensors.items()},
            temporary,
            metadata={"k_model": json.dumps(header)},
        )


def load_k_model(path: str | Path) -> KModel:
    """Read a file written by :func:`save_k_model`.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file, when it is absent, is no such file, is of another version, or has parts missing,
        misshapen or not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such model of k-corrections")
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {})["k_model"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        found = header["format"], header["version"]
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a model of k-corrections in safetensors format ({error!r})") from error
    if found != (_FORMAT, _VERSION):
        raise ValueError(
            f"{path}: {found[0]} of version {found[1]}; expected {_FORMAT} of version {_VERSION}"
        )
    try:
        return _model(header, tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: a model with parts missing or wrong ({error})") from error


def _model(header: dict, tensors: dict[str, np.ndarray]) -> KModel:
    facts = {name: header[name] for name in _FACTS}
    facts |= {"bands": tuple(facts["bands"]), "names": tuple(facts["names"])}
    if facts["system"] not in SOFTENING or facts["track"] not in TRACKS:
        raise ValueError(f"system {facts['system']!r}, track {facts['track']!r}")
    check_bands(facts["bands"], facts["system"], facts["band"])
    n = len(facts["names"])
    bins = len(tensors["widths"])
    shapes = {"low": (n,), "high": (n,), "edges": (bins - 1,), "widths": (bins,)}
    kernels = []
    for i in range(header["members"]):
        parts = {name: tensors[f"kernel.{i}.{name}"] for name in _ARRAYS}
        m = len(parts["weights"])
        shapes |= {f"kernel.{i}.{name}": (n,) for name in ("middle", "spread", "lengths")}
        shapes |= {f"kernel.{i}.centres": (m, n), f"kernel.{i}.weights": (m,), f"kernel.{i}.mean": ()}
        kernels.append(KernelRegression(lengths=parts["lengths"], n_centres=m))
        for name, values in parts.items():
            setattr(kernels[-1], f"_{name}", values)
    mean = None
    if facts["track"] == "redshift":
        names = ("powers", "coefficients", "low", "high")
        mean = KPolynomial(**{name: tensors[f"polynomial.{name}"] for name in names})
        p = len(mean.coefficients)
        shapes |= {"polynomial.powers": (p, 1), "polynomial.coefficients": (p,)}
        shapes |= {"polynomial.low": (1,), "polynomial.high": (1,)}
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise ValueError(f"{name} has shape {tensors[name].shape}; expected {shape}")
        # An infinite length leaves a feature out.
        if not ((tensors[name] > 0).all() if name.endswith("lengths") else np.isfinite(tensors[name]).all()):
            raise ValueError(f"{name} is not finite, or a length not above 0")
    parts = {name: tensors[name] for name in ("low", "high", "edges", "widths")}
    return KModel(kernels=tuple(kernels), mean=mean, **facts, **parts)
