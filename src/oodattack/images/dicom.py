"""Read DICOM, the file format of medical images, as a radiology viewer displays it."""

from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.images.rgb import check_area, levels, to_tensor

if TYPE_CHECKING:
    from pydicom.uid import UID

SUFFIXES = (".dcm", ".dicom")


def is_dicom(stream: BinaryIO) -> bool:
    """Whether the file has the DICOM magic, "DICM" after a 128-byte preamble. Rewinds `stream`.

    >>> import io
    >>> is_dicom(io.BytesIO(bytes(128) + b"DICM"))
    True
    """
    head = stream.read(132)
    stream.seek(0)
    return head[128:] == b"DICM"


def read_dicom(stream: BinaryIO) -> Tensor:
    """Read the first frame of a DICOM file, uint8 `(3, H, W)`, RGB.

    The modality rescale is applied to greyscale frames, then the file's first window or, failing that, its look-up
    table. Without either, the smallest value becomes black and the largest white. MONOCHROME1 is inverted.

    Raises:
        InputError: if pydicom is missing or the file contains no image. Broken files raise whatever pydicom
            raises; `decode` converts that to an InputError.
    """
    try:
        import pydicom
        from pydicom.pixels.processing import apply_color_lut
        from pydicom.pixels.utils import pixel_array
    except ImportError as error:
        raise InputError("reading DICOM needs pydicom: pip install 'oodattack[dicom]'") from error

    # force=True: old archives write DICOM without the magic; the transfer syntax may then be missing as well.
    dataset = pydicom.dcmread(stream, force=True)
    if "Rows" not in dataset or "Columns" not in dataset:
        raise InputError("it is not DICOM, or DICOM without an image")
    check_area(dataset.Columns, dataset.Rows)
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = _plain_syntax(*dataset.original_encoding)

    frame = pixel_array(dataset, index=0)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        colour = apply_color_lut(frame, dataset)[..., :3]
        return to_tensor(levels(colour, 0, np.iinfo(colour.dtype).max))
    if frame.ndim == 3:
        return to_tensor(levels(frame, 0, 2**dataset.BitsStored - 1))
    grey = _grey(frame, dataset)
    return to_tensor(255 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey)


def _plain_syntax(implicit: bool, little_endian: bool) -> "UID":
    """The uncompressed transfer syntax that matches the encoding a file was read with."""
    from pydicom import uid

    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little_endian else uid.ExplicitVRBigEndian


def _grey(frame: np.ndarray[Any, Any], dataset: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    from pydicom.pixels.processing import apply_rescale, apply_voi_lut, apply_windowing

    values = apply_rescale(frame, dataset)
    if dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        # pydicom maps the window to the range of stored values; windowing -inf and inf reveals that range.
        with np.errstate(over="ignore"):  # far below the centre of a sigmoid window, exp overflows and 1 / inf = 0
            values = apply_windowing(np.append(values, [-np.inf, np.inf]), dataset)
        low, high = values[-2:]
        return levels(values[:-2].reshape(frame.shape), float(low), float(high))
    if "VOILUTSequence" in dataset:
        values = apply_voi_lut(np.rint(values).astype(np.int64), dataset)
    return levels(values, float(values.min()), float(values.max()))
