"""A small AstroCLIP, trained here: a spectrum backbone that fills gaps, then images and spectra together.

The published one has 371 million parameters and saw 158,000 galaxies; this has some hundred thousand, for
stamps of 48 pixels and spectra of 972. The steps are the same: the spectrum backbone learns to guess hidden
tokens and is then frozen; two encoders learn to give the image and the spectrum of one galaxy the same
embedding. Where the published image backbone was trained alone first (DINOv2, on 76 million images), this one
learns with its encoder.

    clip = train_small_astroclip(images, spectra, pixels, SmallAstroClip())
    embeddings = clip.embed_images(images, prepare=small_images)      # (N, 128)
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from astro_utils.astroclip_inputs import count_windows, draw_masks, to_rgb
from astro_utils.models.astroclip import AstroCLIP, SpectrumEncoder, contrastive_loss
from astro_utils.models.astroclip_vit import VisionTransformer
from astro_utils.models.specformer import SpecFormer
from astro_utils.results import atomic
from astro_utils.splits import hold_out
from astro_utils.training import History, TrainingConfig, fit, predict, seeded

__all__ = [
    "ClipBudget",
    "SmallAstroClip",
    "TrainedClip",
    "load_clip",
    "save_clip",
    "small_images",
    "train_small_astroclip",
]


@dataclass(frozen=True)
class SmallAstroClip:
    """Sizes of the small AstroCLIP.

    Parameters
    ----------
    size, patch : int
        Side of images and of patches, pixels.
    vision_dim, vision_depth, vision_heads : int
        Of the image backbone.
    pixels : int
        Of a spectrum.
    spectrum_dim, spectrum_depth, spectrum_heads : int
        Of the spectrum backbone.
    dim, heads : int
        Width of the embeddings, and heads of the attention that makes them.
    """

    size: int = 48
    patch: int = 8
    vision_dim: int = 96
    vision_depth: int = 3
    vision_heads: int = 4
    pixels: int = 972
    spectrum_dim: int = 64
    spectrum_depth: int = 2
    spectrum_heads: int = 4
    dim: int = 128
    heads: int = 4

    @property
    def tokens(self) -> int:
        """Tokens of a spectrum, that of mean and spread included."""
        return 1 + count_windows(self.pixels)

    def build(self) -> AstroCLIP:
        """Make the network, with tokens that know where they are: small stamps have few of them."""
        vision = VisionTransformer(
            size=self.size,
            patch=self.patch,
            dim=self.vision_dim,
            depth=self.vision_depth,
            heads=self.vision_heads,
            chunks=1,
            layer_scale=1.0,
            positions=True,
        )
        specformer = SpecFormer(
            dim=self.spectrum_dim,
            depth=self.spectrum_depth,
            heads=self.spectrum_heads,
            max_tokens=self.tokens,
        )
        return AstroCLIP(vision=vision, specformer=specformer, dim=self.dim, heads=self.heads)


@dataclass(frozen=True)
class ClipBudget:
    """How long to train.

    Parameters
    ----------
    masked_epochs, epochs : int
        Passes of the spectrum backbone over hidden tokens, and of both encoders over pairs.
    batch_size : int
        Galaxies in a step; a pair is told from so many others.
    learning_rate : float
    half : bool
        Whether to compute in bfloat16.
    seed : int
    """

    masked_epochs: int = 20
    epochs: int = 30
    batch_size: int = 256
    learning_rate: float = 1e-3
    half: bool = False
    seed: int = 0


@dataclass(frozen=True, eq=False)
class TrainedClip:
    """The network and how it was trained.

    Attributes
    ----------
    model : AstroCLIP
    masked : History
        Losses of the spectrum backbone.
    contrastive : History
        Losses of the pairs; without skill log(batch_size).
    """

    model: AstroCLIP
    masked: History
    contrastive: History


def small_images(images: Tensor) -> Tensor:
    """Images (N, 3, y, x) in nanomaggies as the networks see them: the published colours, 0 to 1."""
    return to_rgb(images)


def _turn(batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Turn a batch by a multiple of 90 degrees and perhaps mirror it, by torch's own random numbers."""
    images, *rest = batch
    images = torch.rot90(images, int(torch.randint(4, ())), (-2, -1))
    if torch.randint(2, ()):
        images = images.flip(-1)
    return (images, *rest)


def _masks(config: SmallAstroClip, n: int, generator: torch.Generator | None = None) -> Tensor:
    """Hide about two fifths of the tokens in six runs, as published."""
    width = config.tokens * 50 // 778
    return draw_masks(n, config.tokens, chunks=6, width=max(1, width), generator=generator)


def train_small_astroclip(
    images: np.ndarray,
    spectra: np.ndarray,
    groups: np.ndarray,
    config: SmallAstroClip,
    budget: ClipBudget,
    *,
    checkpoints: Path | None = None,
) -> TrainedClip:
    """Train on images and spectra of the same galaxies.

    Parameters
    ----------
    images : numpy.ndarray
        (N, 3, size, size) nanomaggies in g, r, z.
    spectra : numpy.ndarray
        (N, pixels) flux densities.
    groups : numpy.ndarray
        (N,) parts of the sky; a tenth of the galaxies, on parts of their own, say when to stop.
    config : SmallAstroClip
    budget : ClipBudget
    checkpoints : path, optional
        Folder; a killed run goes on from there.

    Returns
    -------
    TrainedClip
        On the CPU, in evaluation mode.

    Raises
    ------
    ValueError
        When images or spectra are not of the sizes of `config`, or not of the same galaxies.
    """
    expected = (len(spectra), 3, config.size, config.size), (len(images), config.pixels)
    if images.shape != expected[0] or spectra.shape != expected[1]:
        raise ValueError(
            f"images {images.shape} and spectra {spectra.shape}; expected (N, 3, {config.size}, "
            f"{config.size}) and (N, {config.pixels}) of the same N galaxies"
        )
    held = hold_out(groups, 0.1, budget.seed)
    pictures, light = small_images(torch.from_numpy(images)), torch.from_numpy(spectra)
    model = seeded(budget.seed, config.build)
    files = (None, None) if checkpoints is None else (checkpoints / "masked.pt", checkpoints / "pairs.pt")

    generator = torch.Generator().manual_seed(budget.seed)
    masks = _masks(config, len(light), generator)
    backbone = model.spectrum_encoder.backbone
    common = {"batch_size": budget.batch_size, "learning_rate": budget.learning_rate, "seed": budget.seed}
    masked = fit(
        backbone,
        lambda network, batch: network.masked_loss(*batch),
        (light[~held], masks[~held]),
        (light[held], masks[held]),
        TrainingConfig(epochs=budget.masked_epochs, patience=budget.masked_epochs, **common),
        files[0],
        # By torch's own random numbers, which the loop seeds and keeps in its checkpoints.
        augment=lambda batch: (batch[0], _masks(config, len(batch[0])).to(batch[0].device)),
    )

    model.freeze_backbones()
    model.image_encoder.backbone.requires_grad_(True)
    device = next(backbone.parameters()).device
    tokens = predict(backbone, light.to(device), batch_size=512)  # frozen: once for all, (N, tokens, dim)
    contrastive = fit(
        model,
        _pair_loss,
        (pictures[~held], tokens[~held]),
        (pictures[held], tokens[held]),
        TrainingConfig(
            epochs=budget.epochs, patience=budget.epochs, weight_decay=0.05, bfloat16=budget.half, **common
        ),
        files[1],
        augment=_turn,
    )
    return TrainedClip(model.cpu(), masked, contrastive)


def _pair_loss(model: AstroCLIP, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Contrastive loss (B,) of images and of spectra of which the backbone's tokens are known."""
    images, tokens = batch
    embeddings = model.image_encoder(images), _from_tokens(model.spectrum_encoder, tokens)
    with torch.autocast(images.device.type, enabled=False):  # three digits are too few for similarities
        return contrastive_loss(*(e.float() for e in embeddings))


def _from_tokens(encoder: SpectrumEncoder, tokens: Tensor) -> Tensor:
    """Embed spectra whose tokens (B, T, dim) the frozen backbone has made already, (B, dim)."""
    answer = encoder.cross_attention(tokens)
    return answer + encoder.mlp(answer)


# ------------------------------------------------------------------------------------------------------ files


def save_clip(path: str | Path, model: AstroCLIP, config: SmallAstroClip) -> Path:
    """Write weights as safetensors, with the sizes in the header."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic(path) as temporary:
        save_file(weights, temporary, metadata={"small_astroclip": json.dumps(asdict(config))})
    return Path(path)


def load_clip(path: str | Path) -> tuple[AstroCLIP, SmallAstroClip]:
    """Read what :func:`save_clip` wrote; in evaluation mode, on the CPU.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        Naming the file, when it is not such a file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file of weights")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("small_astroclip")
            weights = {name: file.get_tensor(name) for name in file.keys()}
        config = SmallAstroClip(**json.loads(header))
        model = config.build()
        model.load_state_dict(weights)
    except (SafetensorError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: not the weights of a small AstroCLIP ({error})") from error
    return model.eval(), config
