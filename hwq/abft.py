"""Matrix products that find their own errors: checksums of rows and columns, modulo 2**32 (Huang and Abraham, 1984).

A product of int8 matrices, its sums read by the host byte by byte (`sum_bytes`), is run with a few more columns of
weights, which hold the sums of the others, and a few more rows of operands likewise. Sums of 8-bit numbers need more
than 8 bits: they are digits to base 256, -128..127, a column or row each. As multiplication is linear,

    sum over the columns of C[i, :] = sum of 256**d * C[i, N + d]    for every row i,

modulo 2**32 whatever wraps, and likewise for the rows of every column. Both are needed: what a wrong weight does to a
column it does to the column's checksum as well, and only the rows show it; so it is with a wrong operand and columns.

The checksums are made and compared by the host, outside of what they watch: the memories of operands, weights and
results, the mesh, the output path, the way back. They don't watch what all rows and columns have in common, descriptors
before all: memories that have `parity` do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from hwq.compiler import compile
from hwq.config import ArrayConfig, load_arch
from hwq.costs import estimate
from hwq.errors import ArchError, ChecksumError, InputError
from hwq.program import Program
from hwq.runtime import InferenceSession

Matrix = npt.NDArray[np.int8]
Sums = npt.NDArray[np.int32]


class CheckedProduct:
    """``a @ weight`` of int8 matrices on an array, int32 sums, each row and column of them checked.

    Parameters
    ----------
    weight : int8 (K, N)
    rows : int
        Of `a`, M.
    arch : preset name, architecture file or ArrayConfig
        With `sum_bytes`.
    target : str
        One of `hwq.runtime.TARGETS` that runs programs.

    Members
    -------
    program : Program
        Of the product with its checksums, (M + `checksums(M)`, K) by (K, N + `checksums(N)`).

    Raises
    ------
    ArchError
        On an architecture whose sums the host can't read.
    InputError
        On a weight that isn't an int8 matrix, or no rows.
    HwqError
        As `hwq.compile` raises them.

    Examples
    --------
    >>> import numpy as np
    >>> product = CheckedProduct(np.array([[1, 2], [3, 4]], np.int8), rows=1, arch="sim-4x4")
    >>> product.run(np.array([[5, -6]], np.int8))
    array([[-13, -14]], dtype=int32)
    """

    def __init__(self, weight: Matrix, rows: int, arch: str | Path | ArrayConfig, target: str = "machine"):
        config = load_arch(arch)
        if not config.sum_bytes:
            raise ArchError(f"arch {config.name!r}: sums leave the array only where sum_bytes is 1")
        weight = np.asarray(weight)
        if weight.dtype != np.int8 or weight.ndim != 2 or not weight.size or rows < 1:
            raise InputError(
                f"A checked product is of an int8 matrix and rows, not {weight.dtype} {weight.shape}, {rows}"
            )
        self._shape = rows, len(weight)
        self._config, self._weight = config, weight
        self.program = _program(with_column_checksums(weight), rows + checksums(rows), config)
        self._session = InferenceSession(self.program, target=target)

    def run(self, a: Matrix) -> Sums:
        """Return ``a @ weight`` (M, N), modulo 2**32.

        Raises
        ------
        ChecksumError
            When rows or columns disagree with their checksums.
        InputError
            On an `a` that isn't int8 (M, K).
        """
        a = np.asarray(a)
        if a.dtype != np.int8 or a.shape != self._shape:
            raise InputError(f"A checked product's operand must be int8 {self._shape}, not {a.dtype} {a.shape}")
        (sums,) = self._session.run(None, {"a": with_row_checksums(a)})
        return checked(sums, *self._shape[:1], self._weight.shape[1])

    def cycles(self) -> tuple[int, int]:
        """Return the clock cycles of a run, and those of the same product without checksums; both exact."""
        plain = _program(self._weight, self._shape[0], self._config)
        return estimate(self.program).cycles_predicted, estimate(plain).cycles_predicted

    def close(self) -> None:
        """Release the target."""
        self._session.close()


def checksums(terms: int) -> int:
    """Return how many digits hold every sum of so many int8 numbers.

    >>> checksums(1), checksums(257), checksums(258)
    (1, 2, 3)
    """
    return next(count for count in range(1, 9) if (256**count - 1) // 255 >= terms)


def with_row_checksums(a: Matrix) -> Matrix:
    """Return int8 (..., M, K) with `checksums(M)` more rows, the digits of the rows' sum, the lowest first."""
    return np.concatenate([a, _digits(a.sum(axis=-2, dtype=np.int64), checksums(a.shape[-2]), -2)], axis=-2)


def with_column_checksums(b: Matrix) -> Matrix:
    """Return int8 (..., K, N) with `checksums(N)` more columns, the digits of the columns' sum, the lowest first."""
    return np.concatenate([b, _digits(b.sum(axis=-1, dtype=np.int64), checksums(b.shape[-1]), -1)], axis=-1)


def _digits(total: npt.NDArray[np.int64], count: int, axis: int) -> Matrix:
    """Return the numbers that `total` is ``sum of 256**d * digit d`` of, along a new `axis`."""
    found = []
    for _ in range(count):
        digit = ((total + 128) & 255) - 128
        found.append(digit.astype(np.int8))
        total = (total - digit) >> 8
    assert not total.any()
    return np.stack(found, axis)


def faults(sums: Sums, rows: int, columns: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which rows (..., M) and which columns (..., N) of a product disagree with their checksums.

    Parameters
    ----------
    sums : int32 (..., M + checksums(M), N + checksums(N))
    rows, columns : int
        M and N.
    """
    bits = sums.view(np.uint32)
    row_scale = (1 << 8 * np.arange(checksums(columns), dtype=np.uint64)).astype(np.uint32)
    column_scale = (1 << 8 * np.arange(checksums(rows), dtype=np.uint64)).astype(np.uint32)
    inner = bits[..., :rows, :columns]
    by_row = (bits[..., :rows, columns:] * row_scale).sum(axis=-1, dtype=np.uint32)
    by_column = (bits[..., rows:, :columns] * column_scale[:, None]).sum(axis=-2, dtype=np.uint32)
    return inner.sum(axis=-1, dtype=np.uint32) != by_row, inner.sum(axis=-2, dtype=np.uint32) != by_column


def checked(sums: Sums, rows: int, columns: int) -> Sums:
    """Return the product without its checksums.

    Raises
    ------
    ChecksumError
        When a row or column disagrees with its checksum; names them.
    """
    wrong_rows, wrong_columns = (np.flatnonzero(wrong).tolist() for wrong in faults(sums, rows, columns))
    if wrong_rows or wrong_columns:
        raise ChecksumError(
            f"The product's sums disagree with their checksums in {_named('row', wrong_rows)} and "
            f"{_named('column', wrong_columns)}; run it again, and load the weights again if that doesn't help"
        )
    return sums[:rows, :columns]


def _named(what: str, numbers: list[int]) -> str:
    more = f" and {len(numbers) - 1} more" if len(numbers) > 1 else ""
    return f"{what} {numbers[0]}{more}" if numbers else f"no {what}"


def _program(weight: Matrix, rows: int, config: ArrayConfig) -> Program:
    """Return the program of a product of int8 (rows, K), input ``a``, and `weight`."""
    node = helper.make_node("MatMulInteger", ["a", "weight"], ["sums"], name="product")
    ports = [
        helper.make_tensor_value_info(name, dtype, shape)
        for name, dtype, shape in (
            ("a", TensorProto.INT8, (rows, weight.shape[0])),
            ("sums", TensorProto.INT32, (rows, weight.shape[1])),
        )
    ]
    graph = helper.make_graph(
        [node], "checked-product", ports[:1], ports[1:], [numpy_helper.from_array(weight, "weight")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return compile(model, config, golden=False)
