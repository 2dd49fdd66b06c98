"""MargNet as it was published: a perceptron for photometry, an inception network for stamps, their ensemble.

The networks of Chaini et al. (2023, MNRAS 518, 3123) with the wiring of their public repository,
sidchaini/MargNet. The inception network is of the kind that Pasquet et al. (2019, A&A 621, A26) use for
photometric redshifts. With three classes the three have 25,875,217 parameters, as published.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from astro_utils.legacy import KerasDense
from astro_utils.models.fast_dropout import FastDropout

__all__ = ["MargNetConvolutional", "MargNetDense", "MargNetEnsemble"]

#: Hidden layers of the photometry's perceptron and the dropout after each.
DENSE_WIDTHS = (1024, 256, 128, 64, 32)
DENSE_DROPOUT = 0.25
#: Filters of the first convolution; then by block of its reductions and of its convolutions.
FIRST_FILTERS = 64
BLOCKS = ((48, 64), (64, 92), (92, 128), (92, 128), (92, 128))
HEAD_WIDTH = 1024
ENSEMBLE_WIDTH = 10


def _initialised(layer: nn.Module) -> nn.Module:
    """Start `layer` as Keras does: uniform weights of Glorot & Bengio (2010, eq. 16), biases of zero."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class MargNetDense(nn.Module):
    """Classify the raw photometric features of an object with five hidden layers of sigmoids.

    331,298 and 331,331 parameters with 2 and 3 classes and 24 features. Weights start as in Keras, not as in
    torch: differences between objects then reach the logits, through five sigmoids that each flatten what
    passes, about twenty times larger. They are below a thousandth all the same, and the loss stays that of a
    guess for a hundred steps or more. Features enter unscaled, magnitudes near 20 beside extinctions near
    0.05. Under autocast the network stays in single precision: in bfloat16 a magnitude of 20 is known to 0.1
    only.

    Parameters
    ----------
    n_classes, n_features : int
    """

    def __init__(self, *, n_classes: int, n_features: int = 24) -> None:
        super().__init__()
        layers = []
        for n_in, n_out in pairwise((n_features, *DENSE_WIDTHS)):
            layers += [_initialised(nn.Linear(n_in, n_out)), nn.Sigmoid(), FastDropout(DENSE_DROPOUT)]
        self.layers = nn.Sequential(*layers, _initialised(nn.Linear(DENSE_WIDTHS[-1], n_classes)))

    @classmethod
    def from_keras(cls, released: KerasDense) -> MargNetDense:
        """Copy a network released by the authors, as :func:`astro_utils.legacy.read_keras_dense` reads it.

        The softmax at its end is left out: the copy gives logits. It has the precision and the device of the
        original and is in evaluation mode.

        Raises
        ------
        ValueError
            When `released` has other layers. The message gives both lists.
        """
        linear = [layer for layer in released.layers if isinstance(layer, nn.Linear)]
        if not linear:
            raise ValueError("the released network has no dense layer")
        with torch.device("meta"):  # without memory, and without using up the caller's random numbers
            network = cls(n_classes=linear[-1].out_features, n_features=linear[0].in_features)
        found, expected = _chain(released.layers), [*_chain(network.layers), "Softmax"]
        if found != expected:
            raise ValueError(f"the released network is {', '.join(found)}; expected {', '.join(expected)}")
        own = [name for name, layer in network.layers.named_children() if isinstance(layer, nn.Linear)]
        weights = {
            f"layers.{name}.{key}": value.clone()
            for name, layer in zip(own, linear, strict=True)
            for key, value in layer.state_dict().items()
        }
        network.load_state_dict(weights, assign=True)
        return network.eval()

    def forward(self, features: Tensor) -> Tensor:
        """Map raw features (B, n_features) to logits (B, n_classes).

        Raises
        ------
        ValueError
            When `features` has another shape.
        """
        n_features = self.layers[0].in_features
        if features.ndim != 2 or features.shape[1] != n_features:
            raise ValueError(f"features of shape {tuple(features.shape)}; expected (B, {n_features})")
        with torch.autocast(features.device.type, enabled=False):
            return self.layers(features)


def _chain(layers: nn.Sequential) -> list[str]:
    """Names of layers with the sizes of dense ones; dropout, which changes no prediction, is left out."""
    return [
        f"{layer.in_features}-{layer.out_features}" if isinstance(layer, nn.Linear) else type(layer).__name__
        for layer in layers
        if not isinstance(layer, (nn.Dropout, FastDropout))
    ]


class _Inception(nn.Module):
    """Convolutions of several sizes side by side, on inputs reduced to fewer channels.

    Three 1x1 convolutions reduce the input. The first is read by convolutions of 1x1 and 3x3, the second by
    one of 5x5, and the third goes on as it is, through an average over a single pixel. Without the 5x5 there
    are two reductions, and the 1x1 convolution reads the unreduced input. A ReLU follows every convolution.

    Convolutions of 1x1 that read the input are executed as one, and one ReLU serves what is joined: the third
    reduction, not negative already, passes it unchanged.
    """

    def __init__(self, n_in: int, reduced: int, filters: int, five: bool) -> None:
        super().__init__()
        #: Channels of the 1x1 convolutions of the input: the reductions, or two of them and the 1x1 itself.
        self.parts = [reduced, reduced, reduced if five else filters]
        self.n_out = reduced + (3 if five else 2) * filters
        self.inputs = _initialised(nn.Conv2d(n_in, sum(self.parts), 1))
        with torch.no_grad():  # each part as wide as it is, not as they are together
            for part in self.inputs.weight.split(self.parts):
                nn.init.xavier_uniform_(part)
        self.three = _initialised(nn.Conv2d(reduced, filters, 3, padding=1))
        self.one = _initialised(nn.Conv2d(reduced, filters, 1)) if five else None
        self.five = _initialised(nn.Conv2d(reduced, filters, 5, padding=2)) if five else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n_in, ny, nx) to (B, n_out, ny, nx)."""
        first, second, third = F.relu(self.inputs(x), inplace=True).split(self.parts, 1)
        if self.five is None:
            return torch.cat([third, F.relu(self.three(first), inplace=True), second], 1)
        joined = torch.cat([self.one(first), self.three(first), self.five(second), third], 1)
        return F.relu(joined, inplace=True)


class MargNetConvolutional(nn.Module):
    """Classify the stamp of an object with one convolution, five inception blocks and three dense layers.

    25,543,783 parameters with 3 classes. The wiring is that of the released code; weights start as in Keras.
    What is unusual in it is kept:

    - **Linear head.** No activation stands between the three dense layers, so that 23.9 of the 25.5 million
      parameters make one linear map from 22,272 numbers to the logits (`head`).
    - **Pooling of one pixel.** The pooling branch of a block averages over one pixel and changes nothing.
    - **Shared reduction.** In the first four blocks the 1x1 convolution reads the reduction made for the 3x3;
      only in the fifth does it read the input of the block.
    - **Raw pixels.** Stamps enter as they are stored, and no layer normalises them.

    Channels run fastest in memory whatever the order of the input: on a processor training is faster by a
    quarter in single precision and by a half in bfloat16, and numbers are flattened in Keras' order. Under
    autocast the layer of the logits stays in single precision.

    Parameters
    ----------
    n_classes : int
    n_bands : int
        Of a stamp.
    size : int
        Pixels on a side of a stamp, a multiple of 4.

    Raises
    ------
    ValueError
        When the stamp cannot be halved twice.
    """

    def __init__(self, *, n_classes: int, n_bands: int = 5, size: int = 32) -> None:
        super().__init__()
        if size < 4 or size % 4:
            raise ValueError(f"stamps of {size} x {size} pixels; expected a multiple of 4")
        self.stamp = (n_bands, size, size)
        self.first = _initialised(nn.Conv2d(n_bands, FIRST_FILTERS, 5, padding=2))
        blocks, n_in = [], FIRST_FILTERS
        for number, (reduced, filters) in enumerate(BLOCKS, 1):
            blocks.append(_Inception(n_in, reduced, filters, five=number < len(BLOCKS)))
            n_in = blocks[-1].n_out
            if number in (2, 4):
                blocks.append(nn.AvgPool2d(2))
        self.blocks = nn.Sequential(*blocks)
        self.dense = nn.Sequential(
            _initialised(nn.Linear(n_in * (size // 4) ** 2, HEAD_WIDTH)),
            _initialised(nn.Linear(HEAD_WIDTH, HEAD_WIDTH)),
        )
        self.logits = _initialised(nn.Linear(HEAD_WIDTH, n_classes))

    def flattened(self, images: Tensor) -> Tensor:
        """Map stamps (B, bands, size, size) to the numbers (B, 348 (size / 4)^2) that the head reads.

        Raises
        ------
        ValueError
            When `images` has another shape.
        """
        if images.shape[1:] != self.stamp:
            expected = ", ".join(map(str, self.stamp))
            raise ValueError(f"images of shape {tuple(images.shape)}; expected (B, {expected})")
        x = self.first(images.contiguous(memory_format=torch.channels_last))
        return self.blocks(F.relu(x, inplace=True)).permute(0, 2, 3, 1).flatten(1)

    def head(self, flattened: Tensor) -> Tensor:
        """Map flattened numbers to logits (B, n_classes), linearly."""
        hidden = self.dense(flattened)
        with torch.autocast(hidden.device.type, enabled=False):
            return self.logits(hidden.to(self.logits.weight.dtype))

    def forward(self, images: Tensor) -> Tensor:
        """Map stamps (B, bands, size, size) to logits (B, n_classes)."""
        return self.head(self.flattened(images))

    def matmul_flops(self, batch: int) -> int:
        """Floating-point operations of the products of one forward pass, a multiply-add as two.

        For an object the products are as many as the weights, those of convolutions times the pixels that
        they give: size^2 in the first convolution and the first two blocks, a quarter of it in the third and
        fourth, a sixteenth in the fifth. Products with the zeros around a stamp are counted.
        """
        pixels = self.stamp[1] ** 2
        products = pixels * self.first.weight.numel()
        for block in self.blocks:
            if isinstance(block, nn.AvgPool2d):
                pixels //= 4
            else:
                products += pixels * sum(weight.numel() for weight in block.parameters() if weight.ndim == 4)
        products += sum(layer.weight.numel() for layer in (*self.dense, self.logits))
        return 2 * batch * products


class MargNetEnsemble(nn.Module):
    """Weigh the class probabilities of both networks, which are trained already and stay as they are.

    72 and 103 parameters with 2 and 3 classes. Two habits of the released code belong to the training and are
    not enforced here:

    - **Trained on the validation set**, on which both networks were stopped early, with the epoch chosen by
      the training loss. Its accuracy on that set says nothing.
    - **Dropout on.** Freezing weights does not switch dropout off in Keras: while the ensemble learns, the
      perceptron's probabilities are those of its training mode, and in the test those of its evaluation mode.

    Parameters
    ----------
    n_classes : int
    """

    def __init__(self, *, n_classes: int) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.layers = nn.Sequential(
            _initialised(nn.Linear(2 * n_classes, ENSEMBLE_WIDTH)),
            nn.ReLU(),
            _initialised(nn.Linear(ENSEMBLE_WIDTH, n_classes)),
        )

    def forward(self, cnn_probabilities: Tensor, dnn_probabilities: Tensor) -> Tensor:
        """Map two sets of probabilities (B, n_classes), of the stamps first, to logits (B, n_classes).

        Raises
        ------
        ValueError
            When an input has another shape.
        """
        expected = (len(cnn_probabilities), self.n_classes)
        for name, given in (("cnn", cnn_probabilities), ("dnn", dnn_probabilities)):
            if given.shape != expected:
                raise ValueError(f"{name}_probabilities of shape {tuple(given.shape)}; expected {expected}")
        with torch.autocast(cnn_probabilities.device.type, enabled=False):
            joined = torch.cat([cnn_probabilities, dnn_probabilities], 1)
            return self.layers(joined.to(self.layers[0].weight.dtype))
