"""Networks that `oodattack train` trains: small classifiers, and the GAN used to train some of them."""

from oodattack.networks.bottleneck import Bottleneck
from oodattack.networks.build import MEAN, STD, build_network
from oodattack.networks.gan import Discriminator, Generator
from oodattack.networks.resnet import CifarResNet

__all__ = ["MEAN", "STD", "Bottleneck", "CifarResNet", "Discriminator", "Generator", "build_network"]
