"""A residual network whose embedding is wide, as MobileNet-V2's is, and its training on 32 x 32 images.

CIFAR-ResNets give 64 numbers an image; this gives `width`, for measurements where the dimension counts. The
images are an .npz with `x_train` (n, 32, 32, 3) uint8, `y_train` (n,), `x_test` and `y_test`. The network is
saved as `wide-resnet.safetensors`, and what `embed` needs besides it (mean and standard deviation) with its
accuracy and recipe as `wide-resnet.json`. With this folder on PYTHONPATH,

    resmem embed wide-resnet.safetensors images.npz --split train --arch wide_resnet:make_wide_resnet
        --mean ... --std ... -o train.h5

embeds the images. With `--arch-args '{"width": 1280}'` there and `--width 1280` here it is another width.
"""

from __future__ import annotations

import torch
from torch import nn
from train_cifar_resnet import train_and_save, training_options

NAME = "wide-resnet"
STAGE_MAPS = (24, 48, 96)


def make_wide_resnet(num_classes: int = 100, width: int = 512) -> WideResNet:
    """Make the network untrained, its convolutions initialised as in He et al. 2015.

    Parameters
    ----------
    num_classes : int
        Logits of the head.
    width : int
        Numbers in the embedding.
    """
    network = WideResNet(num_classes, width)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


class WideResNet(nn.Module):
    """Three residual blocks of 24, 48 and 96 maps, a 1 x 1 convolution to `width` maps, and a linear head.

    The blocks work on 32 x 32, 16 x 16 and 8 x 8 pixels. The mean over the pixels of the last maps, which
    are rectified, is the embedding: the `width` numbers that enter the layer ``head``.
    """

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        first, second, third = STAGE_MAPS
        self.stem = nn.Sequential(*_convolution(3, first, pixels=3), nn.ReLU())
        self.blocks = nn.Sequential(
            _Block(first, first, stride=1), _Block(first, second, stride=2), _Block(second, third, stride=2)
        )
        self.widening = nn.Sequential(*_convolution(third, width, pixels=1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the logits ``(b, num_classes)`` of normalised images ``(b, 3, h, w)``."""
        maps = self.widening(self.blocks(self.stem(images)))
        logits: torch.Tensor = self.head(self.pool(maps).flatten(1))
        return logits


class _Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, which is a 1 x 1 convolution where the maps change."""

    def __init__(self, in_maps: int, maps: int, *, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            *_convolution(in_maps, maps, pixels=3, stride=stride),
            nn.ReLU(),
            *_convolution(maps, maps, pixels=3),
        )
        self.shortcut: nn.Module = nn.Identity()
        if (in_maps, stride) != (maps, 1):
            self.shortcut = nn.Sequential(*_convolution(in_maps, maps, pixels=1, stride=stride))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Give the rectified sum of both ways."""
        return torch.relu(self.inner(maps) + self.shortcut(maps))


def _convolution(in_maps: int, maps: int, *, pixels: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    # No bias: the batch normalisation would take it away again.
    convolution = nn.Conv2d(in_maps, maps, pixels, stride=stride, padding=pixels // 2, bias=False)
    return convolution, nn.BatchNorm2d(maps)


def main() -> None:
    """Train, printing a line an epoch, and write the two files."""
    parser = training_options(__doc__, epochs=12)
    parser.add_argument("--width", type=int, default=512)
    given = parser.parse_args()
    train_and_save(given, NAME, "wide_resnet:make_wide_resnet", make_wide_resnet, width=given.width)


if __name__ == "__main__":
    main()
