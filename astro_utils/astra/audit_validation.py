"""What ASTRA's validation on the training set costs, shown with a small network of version 1, mended.

rows, curves = validation_rows(galaxies, AuditSettings(), "quick")
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from astro_utils.astra.audit_inputs import SOFTENING
from astro_utils.astra.audit_setup import AuditSettings, audit_row, mean_with_interval
from astro_utils.astra.normalisation import noise_scaling
from astro_utils.astra.simulated import Galaxies, split
from astro_utils.astra.targets import fixed_grid, flux_density, log_grid, spectrum_loss
from astro_utils.models.astra import ASTRA_V1_SMALL, Astra, without_quirks
from astro_utils.training import History, TrainingConfig, fit, seeded

__all__ = ["RATIO", "validation_rows"]

#: Dropout is raised when the validation loss is so many times the training loss.
RATIO = 2.0

_SIZE, _POINTS = 32, 100  # pixels in the middle of a stamp; points of a spectrum
_R_WAVELENGTH = 6165.0  # of the r band, Angstrom


def _tensors(galaxies: Galaxies) -> tuple[Tensor, Tensor, Tensor]:
    start = (galaxies.images.shape[-1] - _SIZE) // 2
    middle = galaxies.images[:, :, start : start + _SIZE, start : start + _SIZE]
    norm = np.full(len(galaxies), flux_density(1.0, _R_WAVELENGTH))
    target = fixed_grid(galaxies.spectra, norm, log_grid(_POINTS))
    weights = (target.ivar > 0).astype(np.float32)
    return tuple(torch.from_numpy(a) for a in (noise_scaling(middle, SOFTENING), target.values, weights))


def validation_rows(
    galaxies: Galaxies, settings: AuditSettings, profile: str
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """Choose the epoch on the training set, as published, and on other galaxies; experiment ``validation``.

    The same network is trained twice from the same seed, so that both runs have the same weights after each
    epoch, and only the choice among them differs.

    Returns
    -------
    rows : list of dict
        ``best_epoch``; ``test_loss`` on galaxies of neither; ``loss_ratio``, the largest validation over
        training loss of an epoch, and ``raised_share``, the share of epochs in which it is above
        :data:`RATIO`; for the training set also ``test_loss_ratio``, its test loss over that of the other
        choice, by galaxies of the test.
    curves : pandas.DataFrame
        By epoch, from 1: ``training``, with dropout; ``training set``, as published validation sees it;
        ``other galaxies``.

    Raises
    ------
    ValueError
        When there are fewer training galaxies than asked for.
    """
    parts = split(galaxies, settings.seed)
    if len(parts.train) < settings.n_train:
        raise ValueError(
            f"n_train is {settings.n_train}; expected {len(parts.train)} or fewer, those at hand"
        )
    train = _tensors(galaxies.select(parts.train[: settings.n_train]))
    other, test = (_tensors(galaxies.select(rows)) for rows in (parts.calibration, parts.test))
    config = replace(without_quirks(ASTRA_V1_SMALL), size=_SIZE, points=_POINTS, depth=2)
    how = TrainingConfig(
        epochs=settings.n_epochs,
        batch_size=8,
        learning_rate=2e-3,
        schedule="constant",
        patience=settings.n_epochs,
        seed=settings.seed,
    )
    histories: dict[str, History] = {}
    losses: dict[str, np.ndarray] = {}
    for name, validation in (("training set", train), ("other galaxies", other)):
        model = seeded(settings.seed, lambda: Astra(config))
        histories[name] = fit(model, spectrum_loss, train, validation, how)
        device = next(model.parameters()).device
        with torch.no_grad():
            losses[name] = spectrum_loss(model, tuple(t.to(device) for t in test)).cpu().numpy()
    weights = settings.weights(galaxies.fields[parts.test])
    rows = []
    for name, history in histories.items():
        ratio = np.divide(history.validation_loss, history.train_loss)
        metrics = {
            "best_epoch": history.best_epoch + 1,
            "test_loss": mean_with_interval(losses[name], weights),
            "loss_ratio": ratio.max(),
            "raised_share": (ratio > RATIO).mean(),
        }
        rows.append(audit_row(profile, "validation", name, len(test[0]), metrics, settings.n_train))
    draws = {name: weights @ loss.astype(float) for name, loss in losses.items()}
    ratio = draws["training set"] / draws["other galaxies"]
    low, high = np.percentile(ratio[1:], [2.5, 97.5])
    rows[0] |= audit_row(
        profile,
        "validation",
        "training set",
        len(test[0]),
        {"test_loss_ratio": {"value": ratio[0], "lo": low, "hi": high}},
        settings.n_train,
    )
    curves = {"training": histories["training set"].train_loss}
    curves |= {name: history.validation_loss for name, history in histories.items()}
    return rows, pd.DataFrame(curves, index=pd.RangeIndex(1, settings.n_epochs + 1, name="epoch"))
