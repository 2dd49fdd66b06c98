"""AstroCLIP: images and spectra of galaxies in one space, where those of the same galaxy lie together.

Parameters have the names of the published checkpoint. With its weights, embeddings of images in nanomaggies
(N, 3, 152, 152), also of an HDF5 dataset that is larger than memory:

    model = published_astroclip("astroclip.ckpt").to("cuda")  # from astro_utils.astroclip_weights
    embeddings = model.embed_images(images, prepare=image_inputs)  # (N, 1024)

Without them, a small one to train on the images and spectra at hand:

    vision = VisionTransformer(size=48, bands=5, dim=64, depth=4, heads=4, chunks=1, layer_scale=1.0)
    model = AstroCLIP(vision=vision, specformer=SpecFormer(dim=48, depth=2, heads=4, max_tokens=400), dim=64)
    fit(model, lambda m, batch: contrastive_loss(*m(*batch)), (images, spectra), held_out, config)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from astro_utils.models.astroclip_vit import VisionTransformer
from astro_utils.models.specformer import Perceptron, SpecFormer

__all__ = ["AstroCLIP", "ImageEncoder", "SpectrumEncoder", "contrastive_loss"]

#: What cosines are multiplied by in the published loss: fixed, and not its logarithm, which is only logged.
LOGIT_SCALE = 15.5


class CrossAttentionHead(nn.Module):
    """One learned question that is put to all tokens."""

    def __init__(self, *, dim: int, token_dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, dim), a=-5, b=5))
        self.multihead_attn = nn.MultiheadAttention(
            dim, heads, kdim=token_dim, vdim=token_dim, batch_first=True
        )
        self.layernorm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, T, token_dim) to the answer (B, dim)."""
        query = self.query.expand(len(tokens), -1, -1)
        answer, _ = self.multihead_attn(query, tokens, tokens, need_weights=False)  # (B, 1, dim)
        return self.layernorm(self.dropout(answer)).squeeze(1)


class ImageEncoder(nn.Module):
    """Images to embeddings: tokens of the backbone, a question to them, a perceptron of the answer.

    The answer is not added to what the perceptron makes of it; in :class:`SpectrumEncoder` it is. (The
    published code lost the sum on this side between its versions 020ab1e and 97cd3e9.)
    """

    def __init__(self, *, backbone: VisionTransformer, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.cross_attention = CrossAttentionHead(
            dim=dim, token_dim=backbone.dim, heads=heads, dropout=dropout
        )
        self.mlp = Perceptron(dim=dim, dropout=dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, bands, y, x) to (B, dim)."""
        return self.mlp(self.cross_attention(self.backbone(images)))


class SpectrumEncoder(nn.Module):
    """Spectra to embeddings: as :class:`ImageEncoder`, but the answer is added to the perceptron of it."""

    def __init__(self, *, backbone: SpecFormer, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.cross_attention = CrossAttentionHead(
            dim=dim, token_dim=backbone.dim, heads=heads, dropout=dropout
        )
        self.mlp = Perceptron(dim=dim, dropout=dropout)

    def forward(self, spectra: Tensor) -> Tensor:
        """Map spectra (B, pixels) or (B, pixels, 1), flux density, to (B, dim)."""
        answer = self.cross_attention(self.backbone(spectra))
        return answer + self.mlp(answer)


class AstroCLIP(nn.Module):
    """Encoders of images and of spectra into one space [1]_. The defaults are the published ones.

    Parameters
    ----------
    vision : VisionTransformer, optional
        Backbone of the images.
    specformer : SpecFormer, optional
        Backbone of the spectra.
    dim : int
        Of the embeddings.
    heads : int
        Of the attention with which both encoders put their question.
    dropout : float
        In both encoders after the backbones, twice.

    Notes
    -----
    The published encoders drop axes of length one, and index the second object of a batch: they fail for a
    batch of one object. These do not.

    References
    ----------
    .. [1] Parker, L., et al., 2024, AstroCLIP: a cross-modal foundation model for galaxies, MNRAS, 531, 4990.
    """

    def __init__(
        self,
        *,
        vision: VisionTransformer | None = None,
        specformer: SpecFormer | None = None,
        dim: int = 1024,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        vision = VisionTransformer() if vision is None else vision
        specformer = SpecFormer() if specformer is None else specformer
        self.dim = dim
        self.image_encoder = ImageEncoder(backbone=vision, dim=dim, heads=heads, dropout=dropout)
        self.spectrum_encoder = SpectrumEncoder(backbone=specformer, dim=dim, heads=heads, dropout=dropout)

    def forward(self, images: Tensor, spectra: Tensor) -> tuple[Tensor, Tensor]:
        """Map images and spectra of the same galaxies to embeddings, (B, dim) each, not normalised."""
        return self.image_encoder(images), self.spectrum_encoder(spectra)

    def freeze_backbones(self) -> None:
        """Leave the backbones as they are in training, as the published ones were once they had learned."""
        self.image_encoder.backbone.requires_grad_(False)
        self.spectrum_encoder.backbone.requires_grad_(False)

    def embed_images(
        self,
        images: Tensor | np.ndarray,
        *,
        batch_size: int = 64,
        prepare: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Embed images, with nothing random and without gradients.

        Parameters
        ----------
        images : torch.Tensor, numpy.ndarray or h5py.Dataset
            (N, bands, y, x). Batches are read one after another and moved to the device of the model.
        batch_size : int
            Images at a time.
        prepare : callable, optional
            From a batch of `images` to what the network is given, for example
            :func:`astro_utils.astroclip_inputs.image_inputs`.

        Returns
        -------
        torch.Tensor
            (N, dim), float32, on the CPU.

        Raises
        ------
        ValueError
            If a value is not finite, the shape does not fit, or the model has no weights yet.
        """
        return self._embed("image", self.image_encoder, images, batch_size, prepare)

    def embed_spectra(
        self,
        spectra: Tensor | np.ndarray,
        *,
        batch_size: int = 64,
        prepare: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Embed spectra, with nothing random and without gradients.

        Parameters
        ----------
        spectra : torch.Tensor, numpy.ndarray or h5py.Dataset
            (N, pixels) or (N, pixels, 1), flux density: see
            :func:`astro_utils.astroclip_inputs.spectrum_tokens`.
        batch_size : int
            Spectra at a time.
        prepare : callable, optional
            From a batch of `spectra` to what the network is given, for example a resampling.

        Returns
        -------
        torch.Tensor
            (N, dim), float32, on the CPU.

        Raises
        ------
        ValueError
            If a value is not finite, the shape does not fit, or the model has no weights yet.
        """
        return self._embed("spectrum", self.spectrum_encoder, spectra, batch_size, prepare)

    @torch.no_grad()
    def _embed(self, what: str, encoder: nn.Module, inputs, batch_size: int, prepare) -> Tensor:
        weight = next(encoder.parameters())
        if weight.is_meta:
            raise ValueError("the model has no weights yet: it is on the device 'meta'")
        embeddings = torch.empty(len(inputs), self.dim)
        with _evaluating(encoder):
            for start in range(0, len(inputs), batch_size):
                batch = torch.as_tensor(inputs[start : start + batch_size]).to(weight.device, torch.float32)
                finite = batch.flatten(1).isfinite().all(1)
                if not finite.all():
                    first = start + int(finite.int().argmin())
                    raise ValueError(f"{what} {first} has values that are not finite numbers")
                batch = batch if prepare is None else prepare(batch)
                embeddings[start : start + batch_size] = encoder(batch.to(weight.dtype))
        return embeddings


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module and its parts in evaluation mode for a while, and then each in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def contrastive_loss(images: Tensor, spectra: Tensor, *, scale: float = LOGIT_SCALE) -> Tensor:
    """Loss of embeddings of which those of the same galaxy should be most alike, and all others not [1]_.

    Parameters
    ----------
    images, spectra : torch.Tensor
        (B, dim) each, of the same galaxies in the same order.
    scale : float
        What cosines are multiplied by.

    Returns
    -------
    torch.Tensor
        (B,), with the mean of the published loss: for each galaxy the mean of two cross-entropies, of its
        spectrum among those of the batch given its image, and of its image given its spectrum. Without any
        skill it is log(B), so that only losses of batches of the same size compare.

    Raises
    ------
    ValueError
        If the embeddings are not of the same shape.

    Notes
    -----
    In the cosine, a norm below 0.001 counts as 0.001.

    References
    ----------
    .. [1] Radford, A., et al., 2021, Learning transferable visual models from natural language supervision,
       PMLR, 139, 8748, arXiv:2103.00020.
    """
    if images.shape != spectra.shape or images.ndim != 2:
        shapes = f"{tuple(images.shape)} and {tuple(spectra.shape)}"
        raise ValueError(f"embeddings have shapes {shapes}; expected (B, dim) twice")
    images, spectra = (F.normalize(x, dim=1, eps=1e-3) for x in (images, spectra))
    logits = scale * images @ spectra.T  # (B images, B spectra)
    true = torch.arange(len(logits), device=logits.device)
    of_images, of_spectra = (F.cross_entropy(x, true, reduction="none") for x in (logits, logits.T))
    return (of_images + of_spectra) / 2
