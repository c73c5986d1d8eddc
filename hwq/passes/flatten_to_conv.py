"""Turn a matrix product over a flattened image into a convolution with one window as large as the image.

- Gemm(Reshape(x)) with x (N, C, H, W), H*W > 1, and the Reshape to (N, C*H*W): Conv with kernel (H, W), then Reshape;
  not with block scales, whose blocks the order of memory would cut up.
- Gemm(Reshape(Transpose(x))) with the Transpose to (N, H, W, C): the same, the weight's rows in another order.

The array keeps channels innermost, so flattening would have to move every byte; a convolution reads them in place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hwq.ir import Array, Conv, Gemm, Graph, Op, Reshape, Tensor, Transpose
from hwq.passes.edit import fresh_name, rebuilt

_TO_CHANNELS_LAST = (0, 2, 3, 1)


def flatten_to_conv(graph: Graph) -> Graph:
    """Return `graph` with every such Gemm replaced; a Reshape or Transpose others still read stays for them."""
    tensors: dict[str, Tensor] = {}
    ops: list[Op] = []
    producers = {name: op for op in graph.ops for name in op.outputs}
    for op in graph.ops:
        source = _flattened(graph, producers, op) if isinstance(op, Gemm) and _is_plain(op) else None
        if source is None or not isinstance(op, Gemm):
            ops.append(op)
            continue
        y = graph.tensors[op.outputs[0]]
        image = replace(y, name=fresh_name(graph, tensors, f"{y.name}/image"), shape=(*y.shape, 1, 1))
        tensors[image.name] = image
        ops.append(
            Conv(
                name=op.name,
                inputs=(source.x.name,),
                outputs=(image.name,),
                weight=source.kernel(op.weight),
                weight_zero_point=op.weight_zero_point,
                weight_scale=op.weight_scale,
                bias=op.bias,
                lo=op.lo,
                hi=op.hi,
                floor=op.floor,
                byte=op.byte,
            )
        )
        ops.append(Reshape(name=f"{op.name}/flatten", inputs=(image.name,), outputs=op.outputs))
    return rebuilt(graph, ops, tensors)


def _is_plain(gemm: Gemm) -> bool:
    return gemm.alpha == 1 and gemm.block_scales is None


@dataclass(frozen=True)
class _Flattened:
    x: Tensor
    channels_last: bool

    def kernel(self, weight: Array) -> Array:
        """Return a (K, O) weight as (O, C, H, W)."""
        _, channels, height, width = self.x.shape
        outputs = weight.shape[1]
        if self.channels_last:
            return np.ascontiguousarray(weight.T.reshape(outputs, height, width, channels).transpose(0, 3, 1, 2))
        return np.ascontiguousarray(weight.T).reshape(outputs, channels, height, width)


def _flattened(graph: Graph, producers: dict[str, Op], gemm: Gemm) -> _Flattened | None:
    """Return the image whose flattening `gemm` reads, if that is all that happens to it."""
    reshape = producers.get(gemm.inputs[0])
    if not isinstance(reshape, Reshape):
        return None
    image = producers.get(reshape.inputs[0])
    channels_last = isinstance(image, Transpose) and image.perm == _TO_CHANNELS_LAST
    x = graph.tensors[image.inputs[0] if channels_last and image is not None else reshape.inputs[0]]
    flat = graph.tensors[gemm.inputs[0]].shape
    if len(x.shape) != 4 or x.shape[2] * x.shape[3] == 1 or flat != (x.shape[0], x.size // x.shape[0]):
        return None
    return _Flattened(x, channels_last)
