"""The variational information bottleneck (Alemi et al. 2017, 2018; the paper's [7])."""

import torch
from torch import Tensor, nn

from oodattack.networks.resnet import CifarResNet


class Bottleneck(nn.Module):
    """A classifier that sees a draw z of ``q(z|x) = N(mean, diag(exp(log_variance)))``.

    In training mode z is drawn, in evaluation mode it is the mean: so is the head's input. The marginal r(z) is the
    standard normal (Alemi et al. 2017); the mixture of 2018 has no rate in closed form.

    Args:
        body: network whose pooled features q(z|x) is made from.
        classes: number of logits.
        width: of z.

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
        """A draw of z, or in evaluation mode its mean, and the rates (B,) in nats."""
        found = self.stats(self.body.pooled(x))
        mean, log_variance = found.chunk(2, dim=1)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp() if self.training else mean
        return z, rate(found)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        logits: Tensor = self.linear(self.latent(x)[0])
        return logits


def rate(stats: Tensor) -> Tensor:
    """KL(q(z|x) || N(0, I)) in nats, (B,), of means and log-variances side by side, (B, 2K).

    >>> rate(torch.zeros(1, 4))
    tensor([0.])
    """
    mean, log_variance = stats.chunk(2, dim=1)
    nats: Tensor = ((mean.square() + log_variance.exp() - 1 - log_variance) / 2).sum(1)
    return nats
