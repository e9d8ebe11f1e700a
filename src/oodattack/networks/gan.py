"""A small DCGAN (Radford et al. 2016) for 32x32 images, used as in Lee et al. 2018 to generate nearby outliers."""

from torch import Tensor, nn


class Generator(nn.Module):
    """Generates images (B, 3, 32, 32) in [0, 1] from noise (B, ``noise``).

    >>> import torch
    >>> Generator()(torch.randn(2, 64)).shape
    torch.Size([2, 3, 32, 32])
    """

    def __init__(self, noise: int = 64, width: int = 32) -> None:
        super().__init__()
        self.noise = noise
        self.net = nn.Sequential(
            *_up(noise, 4 * width, 1, 0),
            *_up(4 * width, 2 * width, 2, 1),
            *_up(2 * width, width, 2, 1),
            nn.ConvTranspose2d(width, 3, 4, 2, 1),
            nn.Sigmoid(),
        )

    def forward(self, noise: Tensor) -> Tensor:
        """Generate images."""
        images: Tensor = self.net(noise[:, :, None, None])
        return images


class Discriminator(nn.Module):
    """Scores images (B, 3, 32, 32): the logits (B,) are higher for images that look real.

    >>> import torch
    >>> Discriminator()(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2])
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            *_down(width, 2 * width),
            *_down(2 * width, 4 * width),
            nn.Conv2d(4 * width, 1, 4),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits."""
        logits: Tensor = self.net(images).flatten()
        return logits


def _up(inputs: int, outputs: int, stride: int, padding: int) -> list[nn.Module]:
    return [
        nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


def _down(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]
