"""Faster encoders: a prepared copy of an encoder, and its bfloat16 twin."""

from oodattack.speed.prepare import prepare

__all__ = ["prepare"]
