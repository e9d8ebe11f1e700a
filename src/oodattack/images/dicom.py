"""DICOM, the file format of medical images, as a radiologist's screen would show it."""

from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from torch import Tensor

from oodattack.core.errors import InputError
from oodattack.images.rgb import check_area, levels, to_tensor

if TYPE_CHECKING:
    from pydicom.uid import UID

SUFFIXES = (".dcm", ".dicom")


def is_dicom(stream: BinaryIO) -> bool:
    """Whether the file says that it is DICOM: "DICM" after 128 free bytes. Leaves `stream` at its start.

    >>> import io
    >>> is_dicom(io.BytesIO(bytes(128) + b"DICM"))
    True
    """
    head = stream.read(132)
    stream.seek(0)
    return head[128:] == b"DICM"


def read_dicom(stream: BinaryIO) -> Tensor:
    """The first frame of a DICOM file, uint8 `(3, H, W)`, RGB.

    Grey frames go through the modality rescale, then the file's first window, else its look-up table; without
    a window the smallest value becomes black and the largest white. MONOCHROME1 is inverted.

    Raises:
        InputError: if pydicom is missing, or the file holds no image. Broken files raise whatever pydicom
            raises; `decode` makes one kind of error of it.
    """
    try:
        import pydicom
        from pydicom.pixels.processing import apply_color_lut
        from pydicom.pixels.utils import pixel_array
    except ImportError as error:
        raise InputError("reading DICOM needs pydicom: pip install 'oodattack[dicom]'") from error

    # force: old archives write DICOM without the magic; then the transfer syntax may be missing as well.
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
    """The uncompressed transfer syntax that a file was read by."""
    from pydicom import uid

    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little_endian else uid.ExplicitVRBigEndian


def _grey(frame: np.ndarray[Any, Any], dataset: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    from pydicom.pixels.processing import apply_rescale, apply_voi_lut, apply_windowing

    values = apply_rescale(frame, dataset)
    if dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        # pydicom maps the window to the range of stored values: what becomes of -inf and inf tells which.
        with np.errstate(over="ignore"):  # a sigmoid window far below its centre: exp overflows, 1 / inf = 0
            values = apply_windowing(np.append(values, [-np.inf, np.inf]), dataset)
        low, high = values[-2:]
        return levels(values[:-2].reshape(frame.shape), float(low), float(high))
    if "VOILUTSequence" in dataset:
        values = apply_voi_lut(np.rint(values).astype(np.int64), dataset)
    return levels(values, float(values.min()), float(values.max()))
