"""The CIFAR ResNets of He et al. 2016, Section 4.2: small networks for 32x32 images."""

from torch import Tensor, nn
from torch.nn import functional as F


class _Block(nn.Module):
    """Two 3x3 convolutions with a parameter-free shortcut (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.extra = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        # Subsample, and pad with zero channels equally on both sides.
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return F.relu(out + F.pad(shortcut, (0, 0, 0, 0, self.extra // 2, self.extra // 2)))


class CifarResNet(nn.Module):
    """A ResNet of ``6 * blocks + 2`` layers with 64 features.

    Args:
        blocks: number of blocks per stage; 3 for ResNet-20.
        classes: number of logits.

    >>> import torch
    >>> CifarResNet(1, 43)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 43])
    """

    input_size = (32, 32)

    def __init__(self, blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, 1, blocks)
        self.layer2 = self._stage(16, 32, 2, blocks)
        self.layer3 = self._stage(32, 64, 2, blocks)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
        first = _Block(inputs, outputs, stride)
        return nn.Sequential(first, *(_Block(outputs, outputs, 1) for _ in range(blocks - 1)))

    def pooled(self, x: Tensor) -> Tensor:
        """Compute the spatial means (B, 64) of the last feature maps."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return x.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (B, classes) of images (B, 3, H, W)."""
        logits: Tensor = self.linear(self.pooled(x))
        return logits
