"""Networks that `oodattack train` trains: small classifiers, the GAN used to train some of them, and Glow."""

from oodattack.networks.bottleneck import Bottleneck
from oodattack.networks.build import MEAN, STD, build_glow, build_image_model, build_network
from oodattack.networks.gan import Discriminator, Generator
from oodattack.networks.glow import Glow
from oodattack.networks.resnet import CifarResNet

__all__ = [
    "MEAN",
    "STD",
    "Bottleneck",
    "CifarResNet",
    "Discriminator",
    "Generator",
    "Glow",
    "build_glow",
    "build_image_model",
    "build_network",
]
