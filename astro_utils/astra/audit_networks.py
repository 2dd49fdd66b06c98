"""Checks of the networks of ASTRA: tokens that never repeat, frequencies that stand twice, mixed pixels.

rows = [*token_rows(galaxies, settings, "quick"), *attention_rows(galaxies, settings, "quick")]
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from astro_utils.astra.audit_setup import AuditSettings, audit_row, mean_with_interval
from astro_utils.astra.normalisation import arcsin_scaling, arcsinh_scaling
from astro_utils.astra.simulated import Galaxies
from astro_utils.models.astra import (
    ASTRA_V1,
    ASTRA_V1_SMALL,
    ASTRA_V2,
    ASTRA_V2_SMALL,
    Astra,
    parameter_counts,
)
from astro_utils.models.astra_parts import FourierAttention, PatchCNN
from astro_utils.training import seeded

__all__ = [
    "attention_rows",
    "bands_in_a_channel",
    "correlations",
    "found_again",
    "parameter_rows",
    "patch_likeness",
    "reading_rows",
    "token_pairs",
    "token_rows",
]

#: Pixels in the middle and side of a patch that make as many tokens as published, 18 x 18 and the dummy.
_MIDDLE, _PATCH = 36, 2


def token_pairs(
    images: Tensor, version: int, weights: str, width: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of the same galaxies in two epochs.

    Parameters
    ----------
    images : torch.Tensor
        (N, 5, y, x) scaled.
    version : {1, 2}
    weights : {"redrawn", "frozen", "trained"}
        Of the patch CNN.
    width, seed : int

    Returns
    -------
    numpy.ndarray, numpy.ndarray
        (N, P, width) each, less the mean over the galaxies, which has the positions in it.
    """
    config = replace(
        {1: ASTRA_V1_SMALL, 2: ASTRA_V2_SMALL}[version],
        size=images.shape[-1],
        dim=width,
        depth=1,
        patch_weights=weights,
    )
    model = seeded(seed, lambda: Astra(config)).eval()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed + 1)
        epochs = [model.tokens(images).numpy().astype(float) for _ in range(2)]
    return tuple(tokens - tokens.mean(0) for tokens in epochs)


def patch_likeness(tokens: np.ndarray) -> np.ndarray:
    """Cosines of all pairs of tokens of a galaxy, (N, P (P - 1) / 2), which random weights may keep."""
    unit = tokens / np.linalg.norm(tokens, axis=2, keepdims=True)
    pairs = np.triu_indices(tokens.shape[1], 1)
    return (unit @ unit.transpose(0, 2, 1))[:, pairs[0], pairs[1]]


def correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlation of the tokens of each galaxy of `first` with those of each of `second`, (N, N)."""
    unit = []
    for table in (first, second):
        table = table.reshape(len(table), -1)
        table = table - table.mean(1, keepdims=True)
        unit.append(table / np.linalg.norm(table, axis=1, keepdims=True))
    return unit[0] @ unit[1].T


def found_again(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether of all rows of `second` the one most correlated with row i of `first` is row i, (N,)."""
    return correlations(first, second).argmax(1) == np.arange(len(first))


def token_rows(galaxies: Galaxies, settings: AuditSettings, profile: str) -> list[dict[str, Any]]:
    """Ask whether a galaxy's tokens are its own; experiment ``tokens``.

    ``correlation_same``: of a galaxy's tokens in two epochs; ``correlation_other``: of different galaxies in
    one epoch (the mean over galaxies is taken off, so about 0); ``found_share``: galaxies that are found
    again among ``candidates`` by their tokens of another epoch; ``likeness_share``: the same by how alike the
    patches of a galaxy are to each other, which is what random weights leave; ``chance``: one over
    ``candidates``.
    """
    galaxies = galaxies.select(np.arange(min(settings.n_tokens, len(galaxies))))
    n, rows = len(galaxies), []
    weights = settings.weights(np.arange(n))
    for version, scaling in ((1, arcsin_scaling), (2, arcsinh_scaling)):
        images = torch.from_numpy(scaling(galaxies.images))
        for kind in ("redrawn", "frozen"):
            one, two = token_pairs(images, version, kind, settings.token_width, settings.seed)
            same, within = correlations(one, two), correlations(one, one)
            likeness = found_again(patch_likeness(one), patch_likeness(two))
            metrics = {
                "correlation_same": mean_with_interval(np.diag(same), weights),
                "correlation_other": (within.sum() - np.trace(within)) / (n * (n - 1)),
                "found_share": mean_with_interval(found_again(one, two), weights),
                "likeness_share": mean_with_interval(likeness, weights),
                "chance": 1 / n,
                "candidates": n,
            }
            rows.append(audit_row(profile, "tokens", f"v{version}, {kind}", n, metrics))
    return rows


@torch.no_grad()
def attention_rows(galaxies: Galaxies, settings: AuditSettings, profile: str) -> list[dict[str, Any]]:
    """Ask what attention among frequencies can tell apart; experiment ``attention``.

    Version 2 at a small width sees as many tokens as published, 325, from patches of 2 x 2 pixels in the
    middle of real-sized stamps. ``positions``: length of the padded sequence; ``distinct``: rows of Re FFT of
    the queries of its first block that differ from all others by more than 1e-4 of their size;
    ``equal_tokens``: tokens whose output of that attention another token has as well; ``order_change``:
    change of the dummy token after all blocks, relative to its scatter over galaxies, when the patches are
    put in another order with their positions already added.
    """
    n = min(8, len(galaxies))
    start = (galaxies.images.shape[-1] - _MIDDLE) // 2
    middle = galaxies.images[:n, :, start : start + _MIDDLE, start : start + _MIDDLE]
    images = torch.from_numpy(arcsinh_scaling(middle))
    small = replace(ASTRA_V2_SMALL, size=_MIDDLE, patch=_PATCH, points=100, patch_weights="frozen")
    rows = []
    for name, fourier in (("among frequencies", True), ("among tokens", False)):
        model = seeded(settings.seed, lambda f=fourier: Astra(replace(small, fourier=f))).eval()
        # The original's weights are a tenth of torch's, with which blocks hardly change what they are given.
        tokens = model.tokens(images)
        x = torch.cat([model.dummy_token.expand(n, -1, -1), model.input_projection(tokens)], 1)
        block = model.blocks[0]
        attention: FourierAttention = block.attention
        normed = block.norm1(x)
        queries = attention.q(attention.qkv(attention.norm(normed)).chunk(3, 2)[0]).double()
        length = 1 << (x.shape[1] - 1).bit_length() if fourier else x.shape[1]
        if fourier:
            queries = torch.fft.fft(queries, length, dim=1).real
        order = torch.randperm(tokens.shape[1], generator=torch.Generator().manual_seed(settings.seed))
        plain, moved = (model.encode(t)[:, 0].double() for t in (tokens, tokens[:, order]))
        change = (moved - plain).norm(dim=1).mean() / (plain - plain.mean(0)).norm(dim=1).mean()
        metrics = {
            "tokens": x.shape[1],
            "positions": length,
            "distinct": _distinct(queries[0]),
            "equal_tokens": x.shape[1] - _single(attention(normed)[0].double()),
            "order_change": float(change),
        }
        rows.append(audit_row(profile, "attention", name, n, metrics))
    return rows


def _twins(rows: Tensor) -> Tensor:
    """Which pairs of rows agree to 1e-4 of the typical distance of two, (T, T)."""
    distance = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    return distance < 1e-4 * distance.median()


def _distinct(rows: Tensor) -> int:
    """Count rows, those that agree once."""
    return int((~_twins(rows).tril(-1).any(1)).sum())


def _single(rows: Tensor) -> int:
    """Count rows that agree with no other."""
    return int((_twins(rows).sum(1) == 1).sum())


@torch.no_grad()
def bands_in_a_channel(mixed: bool) -> int:
    """Count the bands that the first input channel of version 1's patch CNN has in it."""
    bands, pixels = ASTRA_V1.bands, ASTRA_V1.patch**2
    cnn = PatchCNN(bands=bands, pixels=pixels, dim=8, mixed=mixed)
    seen: list[Tensor] = []
    cnn.conv1.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    cnn(torch.arange(float(bands)).expand(1, pixels, bands))  # each pixel says which band it is of
    return len(seen[0][0, 0].unique())


def reading_rows(profile: str) -> list[dict[str, Any]]:
    """Ask how many bands are in one input channel of version 1; experiment ``channels``, ``bands``."""
    return [
        audit_row(profile, "channels", name, 1, {"bands": bands_in_a_channel(mixed)})
        for name, mixed in (("as published", True), ("transposed", False))
    ]


def parameter_rows(profile: str) -> list[dict[str, Any]]:
    """Count weights at the published size; experiment ``parameters``: ``trained`` and ``never_trained``."""
    rows = []
    for name, config in (("v1", ASTRA_V1), ("v2", ASTRA_V2)):
        counts = parameter_counts(config)
        metrics = {"parameters": counts["trained"], "never_trained": counts["patch_cnn"]}
        rows.append(audit_row(profile, "parameters", name, 1, metrics))
    return rows
