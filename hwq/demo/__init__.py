"""The bundled demo: a small quantized classifier of handwritten digits and its test set.

`digits.onnx` is an int8 QDQ model and `digits.npz` the 360 samples it was never trained on; both are written by
`hwq.demo.train_digits`, whose docstring documents their contents.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["load_samples", "model_path"]

PIXEL_MAX = 16
"""Brightest pixel of the data set; the model's input is ``pixel / PIXEL_MAX``."""


def _asset(name: str) -> Path:
    path = Path(str(files(__name__) / name))
    if not path.is_file():
        raise FileNotFoundError(f"The demo file {str(path)!r} is missing; write it again with `make train-demo`")
    return path


def model_path() -> Path:
    """Path of the quantized demo model.

    Returns
    -------
    Path
        An ONNX file: input ``image`` float32 (1, 1, 8, 8) in [0, 1], output ``logits`` float32 (1, 10).

    Raises
    ------
    FileNotFoundError
        The installation lacks the file.

    Examples
    --------
    >>> model_path().name
    'digits.onnx'
    """
    return _asset("digits.onnx")


def load_samples() -> tuple[np.ndarray, np.ndarray]:
    """Load the held-out test set of the demo model.

    Returns
    -------
    images : float32 (360, 1, 8, 8)
        Model inputs, ``pixel / 16`` in [0, 1]; exact, since 16 is a power of two.
    labels : int64 (360,)
        The digit each image shows, 0 to 9.

    Raises
    ------
    FileNotFoundError
        The installation lacks the file.

    Examples
    --------
    >>> images, labels = load_samples()
    >>> images.shape, labels.shape
    ((360, 1, 8, 8), (360,))
    """
    import numpy as np

    with np.load(_asset("digits.npz"), allow_pickle=False) as data:
        pixels, labels = data["pixels"], data["labels"]
    return pixels.astype(np.float32) / np.float32(PIXEL_MAX), labels.astype(np.int64)
