"""Where f comes from: encoders from strings, packages, files and users' own code."""

from oodattack.encoders.device import pick_device
from oodattack.encoders.encoder import Encoder
from oodattack.encoders.load import load_encoder

__all__ = ["Encoder", "load_encoder", "pick_device"]
