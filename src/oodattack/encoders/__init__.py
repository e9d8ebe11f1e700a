"""Encoders (f): loaded from model packages, files or the user's own code, each named by one string."""

from oodattack.encoders.device import pick_device
from oodattack.encoders.encoder import Encoder
from oodattack.encoders.load import load_encoder

__all__ = ["Encoder", "load_encoder", "pick_device"]
