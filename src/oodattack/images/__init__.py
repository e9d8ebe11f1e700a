"""Image sources: decoding, folders, tables, public data sets, start images."""

from oodattack.images.content import digest
from oodattack.images.decode import decode
from oodattack.images.live import image_source
from oodattack.images.shape import encode_png, fit
from oodattack.images.sources import ImageSource, evenly, open_images, shuffled
from oodattack.images.starts import StartSource, open_starts

__all__ = [
    "ImageSource",
    "StartSource",
    "decode",
    "digest",
    "encode_png",
    "evenly",
    "fit",
    "image_source",
    "open_images",
    "open_starts",
    "shuffled",
]
