"""The residual networks for 32 x 32 images of He et al. 2015, section 4.2."""

from __future__ import annotations

from collections import OrderedDict

from resmem_cli.errors import UsageError
from resmem_cli.models.architectures.base import architecture
from resmem_cli.models.extra import torch

nn = torch.nn
functional = torch.nn.functional

_PREFIX = "cifar-resnet"
_WIDTHS = (16, 32, 64)


@architecture(*(f"{_PREFIX}{depth}" for depth in (8, 14, 20, 32, 44, 56)))
def make_cifar_resnet(
    name: str, *, num_classes: int = 100, in_channels: int = 3, shortcut: str = "A"
) -> CifarResNet:
    """Make a residual network by its name, whose number is its depth.

    Parameters
    ----------
    name : str
        ``cifar-resnet8``, ``14``, ``20``, ``32``, ``44`` or ``56``.
    num_classes, in_channels, shortcut
        As `CifarResNet` takes them.

    Raises
    ------
    UsageError
        If an argument is out of range.
    """
    depth = int(name.removeprefix(_PREFIX))
    return CifarResNet(depth, num_classes=num_classes, in_channels=in_channels, shortcut=shortcut)


class CifarResNet(nn.Module):
    """A 3 x 3 convolution, three stages of residual blocks with 16, 32 and 64 maps, and a linear head.

    The stages work on 32 x 32, 16 x 16 and 8 x 8 pixels, (depth - 2)/6 blocks each, and the mean over the
    pixels of the last is the embedding: the 64 numbers that enter the layer ``head``. Weights begin as in
    He et al.: normal, with variance 2 / (9 x the maps the layer makes) for the convolutions.

    Parameters
    ----------
    depth : int
        6n + 2, the layers that have weights.
    num_classes : int
        Logits of the head.
    in_channels : int
        Channels of an image.
    shortcut : {"A", "B"}
        What adds a block's input to an output of more maps and fewer pixels. A has no parameters: every
        second pixel of each row and column, and zeros for the new maps; He et al. use it for CIFAR. B is
        a 1 x 1 convolution with batch normalisation.

    Raises
    ------
    UsageError
        If an argument is out of range.
    """

    def __init__(
        self, depth: int, *, num_classes: int = 100, in_channels: int = 3, shortcut: str = "A"
    ) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise UsageError("out of range", field="depth", expected="6n + 2: 8, 14, 20, ...", found=depth)
        for field, count in (("num_classes", num_classes), ("in_channels", in_channels)):
            if count < 1:
                raise UsageError("out of range", field=field, expected="at least 1", found=count)
        if shortcut not in ("A", "B"):
            raise UsageError("no such shortcut", field="shortcut", expected="A or B", found=shortcut)
        self.conv = _conv3x3(in_channels, _WIDTHS[0], stride=1)
        self.norm = nn.BatchNorm2d(_WIDTHS[0])
        stages: OrderedDict[str, nn.Module] = OrderedDict()
        maps = _WIDTHS[0]
        for number, width in enumerate(_WIDTHS, 1):
            blocks = []
            for _ in range((depth - 2) // 6):
                blocks.append(_Block(maps, width, shortcut))
                maps = width
            stages[f"stage{number}"] = nn.Sequential(*blocks)
        self.stages = nn.Sequential(stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(maps, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the logits ``(b, num_classes)`` of normalised images ``(b, in_channels, h, w)``."""
        maps = self.stages(functional.relu(self.norm(self.conv(images))))
        logits: torch.Tensor = self.head(self.pool(maps).flatten(1))
        return logits


class _Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut; the first halves the pixels where the maps grow."""

    def __init__(self, in_maps: int, maps: int, shortcut: str) -> None:
        super().__init__()
        stride = 1 if in_maps == maps else 2
        self.conv1 = _conv3x3(in_maps, maps, stride=stride)
        self.norm1 = nn.BatchNorm2d(maps)
        self.conv2 = _conv3x3(maps, maps, stride=1)
        self.norm2 = nn.BatchNorm2d(maps)
        self.shortcut: nn.Module
        if stride == 1:
            self.shortcut = nn.Identity()
        elif shortcut == "A":
            self.shortcut = _PaddedShortcut(maps - in_maps)
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_maps, maps, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(maps)
            )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        inner = functional.relu(self.norm1(self.conv1(maps)))
        return functional.relu(self.norm2(self.conv2(inner)) + self.shortcut(maps))


class _PaddedShortcut(nn.Module):
    """Every second pixel of each row and column, and zeros for `new_maps` further maps."""

    def __init__(self, new_maps: int) -> None:
        super().__init__()
        self.new_maps = new_maps

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return functional.pad(maps[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.new_maps))


def _conv3x3(in_maps: int, maps: int, *, stride: int) -> nn.Conv2d:
    # No bias: the batch normalisation that follows would take it away again.
    return nn.Conv2d(in_maps, maps, kernel_size=3, stride=stride, padding=1, bias=False)
