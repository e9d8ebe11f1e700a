"""Glow (Kingma & Dhariwal 2018): the exact likelihood of small images; Section II-C of the paper."""

from oodattack.networks.glow.model import Encoding, Glow

__all__ = ["Encoding", "Glow"]
