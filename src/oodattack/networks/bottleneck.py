"""The variational information bottleneck (Alemi et al. 2017, 2018; the paper's [7])."""

import torch
from torch import Tensor, nn

from oodattack.networks.resnet import CifarResNet


class Bottleneck(nn.Module):
    """A classifier of a stochastic latent z drawn from ``q(z|x) = N(mean, diag(exp(log_variance)))``.

    The head receives a sample of z in training mode and its mean in evaluation mode. The marginal r(z) is the standard
    normal (Alemi et al. 2017); with the mixture of the 2018 paper, the rate would have no closed form.

    Args:
        body: the network whose pooled features parametrise q(z|x).
        classes: number of logits.
        width: dimension of z.

    >>> net = Bottleneck(CifarResNet(1), classes=5, width=8).eval()
    >>> x = torch.rand(2, 3, 32, 32)
    >>> net(x).shape, net.stats(net.body.pooled(x)).shape
    (torch.Size([2, 5]), torch.Size([2, 16]))
    """

    input_size = (32, 32)

    def __init__(self, body: CifarResNet, classes: int, width: int = 32) -> None:
        super().__init__()
        self.body = body
        self.stats = nn.Linear(64, 2 * width)
        self.linear = nn.Linear(width, classes)

    def latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return a sample of z, or its mean in evaluation mode, and the rates (B,) in nats."""
        stats = self.stats(self.body.pooled(x))
        mean, log_variance = stats.chunk(2, dim=1)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp() if self.training else mean
        return z, rate(stats)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (B, classes) of images (B, 3, H, W)."""
        logits: Tensor = self.linear(self.latent(x)[0])
        return logits


def rate(stats: Tensor) -> Tensor:
    """Compute KL(q(z|x) || N(0, I)) in nats, (B,), from concatenated means and log-variances (B, 2K).

    >>> rate(torch.zeros(1, 4))
    tensor([0.])
    """
    mean, log_variance = stats.chunk(2, dim=1)
    nats: Tensor = ((mean.square() + log_variance.exp() - 1 - log_variance) / 2).sum(1)
    return nats
