"""Random quantized graphs as hypothesis draws and shrinks them: the model hwq reads, and what it means."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from hypothesis import strategies as st

from tests.twins import FORMS, Twins, Value
from tests.windows import windows

INPUTS = ("constant", "near zero point", "whole range", "ends")
WEIGHTS = ("ones", "small", "random", "ends")


@dataclass(frozen=True, repr=False)
class Drawn:
    """A network.

    Members
    -------
    read, oracle : onnx.ModelProto
        What hwq reads, and ONNX Runtime's integer operators.
    steps : list of str
        Its layers in words.
    bins : set of str
        What it has.
    arch : int
        Any number, which chooses the array.
    seed : int
        Of the samples.
    inputs : str
        Which of `INPUTS` the samples are.
    """

    read: onnx.ModelProto
    oracle: onnx.ModelProto
    steps: list[str]
    bins: set[str]
    arch: int
    seed: int
    inputs: str

    def __repr__(self) -> str:
        return "\n".join(["", *self.steps, f"inputs: {self.inputs}, seed {self.seed}; array {self.arch}"])


@st.composite
def graphs(draw, archs: int) -> Drawn:
    """Draw a network of one to eight layers for one of `archs` arrays."""
    form = draw(st.sampled_from(FORMS))
    network = _Network(draw, form)
    network.input()
    for _ in range(draw(st.integers(1, 8))):
        network.layer()
    if len(network.values) == 1:
        network._table(network.read(network.values[0]))
    read, oracle = network.models()
    inputs, seed = draw(st.sampled_from(INPUTS)), draw(st.integers(0, 1 << 16))
    bins = {form, f"inputs: {inputs}", *network.bins}
    return Drawn(read, oracle, network.twins.steps, bins, draw(st.integers(0, archs - 1)), seed, inputs)


@dataclass
class _Network:
    draw: st.DrawFn
    form: str
    values: list[Value] = field(default_factory=list)
    readers: dict[str, int] = field(default_factory=dict)
    bins: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.twins = Twins(self.form, shared=self.chance())

    # Draws ------------------------------------------------------------------------------------------------------------

    def below(self, start: int, end: int) -> int:
        return self.draw(st.integers(start, end - 1))

    def chance(self, one_in: int = 2) -> bool:
        return self.draw(st.integers(0, one_in - 1)) == one_in - 1

    def one_of(self, *choices):
        return self.draw(st.sampled_from(choices))

    def scale(self, near: float) -> float:
        """Draw a scale near another: a power of two, of one digit, any, or far from it."""
        kind = self.one_of("power", "power", "digit", "any", "any", "fine", "coarse")
        self.bins.add(f"scale: {kind}")
        near *= {"fine": 1 / 64, "coarse": 64}.get(kind, 1)
        if kind == "power":
            return 2.0 ** (round(math.log2(near)) + self.below(-1, 2))
        if kind == "digit":
            return float(f"{near:.0e}")
        return near * self.below(1 << 14, 1 << 16) / (1 << 15)

    def made(self, shape, near: float, dtype: str, root: str = "") -> Value:
        """Draw how a tensor is quantized."""
        low, high = (-128, 127) if dtype == "int8" else (0, 255)
        kind = self.one_of("middle", "middle", "odd", "any", "any", "end")
        self.bins.add(f"zero point: {kind}")
        zero_point = {"middle": (low + high + 1) // 2, "odd": (low + high + 1) // 2 + 1}.get(kind, low)
        if kind == "any":
            zero_point = self.below(low, high + 1)
        elif kind == "end" and self.chance():
            zero_point = high
        return self.twins.value(shape, self.scale(near), zero_point, dtype, root)

    def read(self, value: Value) -> Value:
        self.readers[value.name] = self.readers.get(value.name, 0) + 1
        if self.readers[value.name] > 1:
            self.bins.add("fan-out")
        return value

    def any_value(self) -> Value:
        """Draw a tensor to read, the last one made being the likeliest."""
        if self.chance(4):
            return self.read(self.one_of(*self.values))
        return self.read(self.values[-1])

    def add(self, kind: str, *values: Value) -> None:
        self.values += values
        self.bins.add(f"{self.form}: {kind}")

    def numbers(self, shape: tuple[int, ...], dtype: str, bits: int) -> np.ndarray:
        """Draw weights."""
        info = (-8, 7) if bits == 4 else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        pattern, rng = self.one_of(*WEIGHTS), np.random.default_rng(self.below(0, 1 << 16))
        self.bins.add(f"weights: {pattern}")
        if pattern == "ones":
            return np.ones(shape, dtype)
        if pattern == "ends":
            return rng.choice(info, shape).astype(dtype)
        if pattern == "small":
            return rng.integers(max(info[0], -2), 3, shape).astype(dtype)
        return rng.integers(info[0], info[1] + 1, shape).astype(dtype)

    def weights(self, shape: tuple[int, ...], x: Value, axis: int) -> tuple[np.ndarray, np.ndarray, int, int, float]:
        """Draw weights, their scales, zero point and bits, and about how large the sums' results are."""
        bits = 4 if self.form == "qdq" and self.chance(3) else 8
        dtype = "uint8" if bits == 8 and (self.form == "qdq" or x.dtype == "uint8") and self.chance(4) else "int8"
        values = self.numbers(shape, dtype, bits)
        zero_point = 128 if dtype == "uint8" else 0
        if bits == 8 and self.chance(4):
            zero_point += self.below(-20, 21)
            self.bins.add("weights: zero point")
        outputs = shape[axis]
        kind = self.one_of("tensor", "channels", "channels", "powers of two")
        rng = np.random.default_rng(self.below(0, 1 << 16))
        base = 2.0 ** -self.below(4, 10)
        if kind == "tensor":
            scale = np.array(base * self.one_of(1.0, 1.3, 0.7), np.float32)
        elif kind == "channels":
            scale = (base * rng.uniform(0.5, 2, outputs)).astype(np.float32)
        else:
            scale = (base * 2.0 ** rng.integers(-2, 3, outputs)).astype(np.float32)
        self.bins |= {f"weights: {bits} bits, {dtype}", f"weight scales: {kind}"}
        depth = values.size // outputs
        size = x.scale * float(scale.max()) * math.sqrt(depth) * (40 if bits == 8 else 3)
        return values, scale, zero_point, bits, size

    def bias(self, outputs: int) -> np.ndarray | None:
        kind = self.one_of("none", "small", "small", "large")
        self.bins.add(f"bias: {kind}")
        if kind == "none":
            return None
        rng = np.random.default_rng(self.below(0, 1 << 16))
        limit = 2000 if kind == "small" else 1 << 24
        return rng.integers(-limit, limit, outputs).astype(np.int32)

    # Layers -----------------------------------------------------------------------------------------------------------

    def input(self) -> None:
        dtype = self.one_of("int8", "uint8")
        kind = self.one_of("image", "image", "image", "image", "signal", "vector")
        batch = 2 if self.chance(8) else 1
        sizes = {"image": 2, "signal": 1, "vector": 0}[kind]
        shape = (batch, self.below(1, 13), *(self.below(1, 11) for _ in range(sizes)))
        value = replace(self.made(shape, 2.0 ** -self.below(3, 7), dtype))
        self.bins |= {kind, dtype, f"batch {batch}"}
        self.values.append(self.twins.input(shape, value.scale, value.zero_point, dtype, quantized=self.chance(4)))

    def layer(self) -> None:
        x = self.any_value()
        kinds = ["again", "gemm", "table", "pair"]
        if len(x.shape) > 2:
            kinds += ["conv", "conv", "conv", "depthwise", "depthwise", "grouped", "max_pool", "average", "mean"]
            kinds += ["residual", "residual", "concat", "concat", "split", "move"]
        if len(x.shape) == 4 and self.form == "qdq":
            kinds += ["transposed"]
        getattr(self, f"_{self.one_of(*kinds)}")(x)

    def _conv(self, x: Value, groups: int = 1, outputs: int = 0, same: bool = False) -> Value:
        sizes = x.shape[2:]
        if same or self.chance(4):
            attributes, exact, made = self._same(sizes)
        else:
            attributes, made = windows(self.below, sizes)
            exact = attributes
        self.bins |= {"stride"} if max(attributes["strides"]) > 1 else set()
        self.bins |= {"dilation"} if max(attributes["dilations"]) > 1 else set()
        self.bins |= {"pads"} if any(exact["pads"]) else set()
        outputs = outputs or self.below(1, 21)
        weight, scale, zero_point, bits, size = self.weights(
            (outputs, x.shape[1] // groups, *attributes["kernel_shape"]), x, 0
        )
        y = self.made((x.shape[0], outputs, *made), size, x.dtype)
        bias, bounds = self.bias(outputs), self.bounds(y)
        more = {"group": groups} if groups > 1 else {}
        self.twins.conv(
            x, y, weight, scale, zero_point, bias, attributes | more, exact | more, bounds=bounds, bits=bits
        )
        self.add("conv" if groups == 1 else "depthwise" if groups == x.shape[1] == outputs else "grouped conv", y)
        return y

    def _same(self, sizes: tuple[int, ...]) -> tuple[dict, dict, tuple[int, ...]]:
        """Draw a window that keeps the size, its pads stated or left to the node."""
        kernels = [self.below(1, 6) for _ in sizes]
        total = [kernel - 1 for kernel in kernels]
        upper = self.chance()
        before = [n // 2 if upper else n - n // 2 for n in total]
        exact = {"kernel_shape": kernels, "strides": [1] * len(sizes), "dilations": [1] * len(sizes)}
        pads = {"pads": before + [n - low for n, low in zip(total, before, strict=True)]}
        if self.chance():
            self.bins.add("automatic pads")
            return exact | {"auto_pad": "SAME_UPPER" if upper else "SAME_LOWER"}, exact | pads, sizes
        return exact | pads, exact | pads, sizes

    def bounds(self, y: Value) -> tuple[int, int] | None:
        kind = self.one_of("none", "none", "relu", "clip")
        if kind == "none":
            return None
        self.bins.add(f"activation: {kind}")
        low, high = y.range
        if kind == "relu":
            return y.zero_point, high
        ends = sorted(self.below(low, high + 1) for _ in range(2))
        return ends[0], ends[1]

    def _depthwise(self, x: Value) -> None:
        self._conv(x, groups=x.shape[1], outputs=x.shape[1])

    def _grouped(self, x: Value) -> None:
        groups = self.one_of(*(n for n in range(1, x.shape[1] + 1) if x.shape[1] % n == 0))
        self._conv(x, groups=groups, outputs=groups * self.below(1, 5))

    def _transposed(self, x: Value) -> None:
        stride, kernel = self.below(1, 4), self.below(1, 5)
        pads = [self.below(0, kernel) for _ in range(4)]
        made = [
            (size - 1) * stride + kernel - low - high
            for size, low, high in zip(x.shape[2:], pads[:2], pads[2:], strict=True)
        ]
        if min(made) < 1 or kernel < stride:
            return self._again(x)
        outputs = self.below(1, 9)
        rng, base = np.random.default_rng(self.below(0, 1 << 16)), 2.0 ** -self.below(4, 10)
        weight = self.numbers((x.shape[1], outputs, kernel, kernel), "int8", 8)
        scale = (base * rng.uniform(0.5, 2, outputs)).astype(np.float32)
        size = x.scale * base * 40 * math.sqrt(weight.size / outputs)
        y = self.made((x.shape[0], outputs, *made), size, x.dtype)
        self.twins.conv_transpose(x, y, weight, scale, self.bias(outputs), stride, pads)
        return self.add("transposed conv", y)

    def _gemm(self, x: Value) -> None:
        if len(x.shape) > 2:
            (x,) = self.twins.move("Flatten", x, [(x.shape[0], math.prod(x.shape[1:]))], bare=self.chance(), axis=1)
        style = self.one_of("matmul", "gemm", "gemm of transposed")
        alpha = 1.0 if style == "matmul" else self.one_of(1.0, 0.5, 0.3)
        outputs = self.below(1, 13)
        weight, scale, zero_point, bits, size = self.weights((x.shape[1], outputs), x, 1)
        y = self.made((x.shape[0], outputs), size * alpha, x.dtype)
        self.twins.gemm(x, y, weight, scale, zero_point, self.bias(outputs), style=style, alpha=alpha, bits=bits)
        self.add(style, y)

    def _max_pool(self, x: Value) -> None:
        attributes, made = windows(self.below, x.shape[2:], "max")
        self.add("max pool", *self.twins.move("MaxPool", x, [(*x.shape[:2], *made)], bare=self.chance(), **attributes))

    def _average(self, x: Value) -> None:
        attributes, made = windows(self.below, x.shape[2:], "average")
        y = self.made((*x.shape[:2], *made), x.scale, x.dtype)
        self.twins.average(x, y, attributes)
        self.add("average pool", y)

    def _mean(self, x: Value) -> None:
        y = self.made((*x.shape[:2], *[1] * len(x.shape[2:])), x.scale, x.dtype)
        self.twins.average(x, y, None)
        self.add("global average pool", y)

    def _table(self, x: Value) -> None:
        op = self.one_of("requantize", "Relu", "Sigmoid", "LeakyRelu", "Tanh", "Abs", "HardSigmoid", "int16")
        dtype = self.one_of(x.dtype, "int8", "uint8") if op not in ("Sigmoid", "LeakyRelu") else x.dtype
        near = 1 / 128 if op in ("Sigmoid", "Tanh", "HardSigmoid") else x.scale
        y = self.made(x.shape, near, dtype, x.root)
        self.bins |= {"int8 and uint8"} if dtype != x.dtype else set()
        self.twins.table(op, x, y, **({"alpha": self.one_of(0.01, 0.25)} if op == "LeakyRelu" else {}))
        self.add(op, y)

    def _pair(self, x: Value) -> None:
        """Draw a function of two tensors, one of them broadcast where the shapes ask for it."""
        fit = [other for other in self.values if other.dtype == x.dtype and _broadcasts(other.shape, x.shape)]
        other = self.read(self.one_of(*fit))
        self._two(*((x, other) if self.chance() else (other, x)))

    def _two(self, a: Value, b: Value) -> None:
        op = self.one_of("Add", "Add", "Mul", "Sub")
        near = a.scale * b.scale * 64 if op == "Mul" else max(a.scale, b.scale) * 1.5
        shape = np.broadcast_shapes(a.shape, b.shape)
        y = self.made(shape, near, a.dtype, a.root if a.root == b.root else "")
        self.bins |= {"broadcast"} if a.shape != b.shape else set()
        self.twins.pair(op, a, b, y)
        self.add(op, y)

    def _residual(self, x: Value) -> None:
        """Draw a convolution and its input's sum with it."""
        y = self._conv(x, outputs=x.shape[1], same=True)
        self._two(self.read(x), self.read(y))
        self.bins.add("residual")

    def _concat(self, x: Value) -> None:
        def fits(y: Value) -> bool:
            same_rest = len(y.shape) == len(x.shape) and (y.shape[0], *y.shape[2:]) == (x.shape[0], *x.shape[2:])
            return y.dtype == x.dtype and same_rest

        others = [self._conv(x, same=True)]
        others += [self.one_of(*filter(fits, self.values)) for _ in range(self.below(0, 2))]
        xs = [self.read(x), *(self.read(other) for other in others)]
        y = self.made((x.shape[0], sum(v.shape[1] for v in xs), *x.shape[2:]), x.scale, x.dtype)
        if self.chance():
            y = replace(y, scale=x.scale, zero_point=x.zero_point)
        self.twins.concat(xs, y, 1)
        self.add("concat", y)

    def _split(self, x: Value) -> None:
        axis = self.below(1, len(x.shape))
        if x.shape[axis] < 2:
            return self._again(x)
        first = self.below(1, x.shape[axis])
        sizes = [first, x.shape[axis] - first]
        shapes = [(*x.shape[:axis], size, *x.shape[axis + 1 :]) for size in sizes]
        ys = self.twins.move("Split", x, shapes, [(sizes, np.int64)], bare=self.chance(), axis=axis)
        return self.add("split", *ys)

    def _move(self, x: Value) -> None:
        """Draw a node that only moves elements."""
        rank, bare = len(x.shape), self.chance()
        op = self.one_of("Transpose", "Slice", "Pad", *(("Resize", "SpaceToDepth") if rank == 4 else ()))
        if op == "Transpose":
            perm = [0, *self.draw(st.permutations(range(1, rank)))]
            made = self.twins.move(op, x, [tuple(x.shape[axis] for axis in perm)], bare=bare, perm=perm)
        elif op == "Slice":
            axis = self.below(1, rank)
            start, step = self.below(0, x.shape[axis]), self.below(1, 3)
            size = -(-(x.shape[axis] - start) // step)
            operands = [([value], np.int64) for value in (start, x.shape[axis], axis, step)]
            made = self.twins.move(op, x, [(*x.shape[:axis], size, *x.shape[axis + 1 :])], operands, bare=bare)
        elif op == "Pad":
            pads = [self.below(0, 3) if axis else 0 for _ in range(2) for axis in range(rank)]
            shape = tuple(n + low + high for n, low, high in zip(x.shape, pads[:rank], pads[rank:], strict=True))
            made = self.twins.move(op, x, [shape], [(pads, np.int64)], bare=bare)
        elif op == "Resize":
            factors = [1, 1, self.below(1, 4), self.below(1, 4)]
            shape = tuple(n * factor for n, factor in zip(x.shape, factors, strict=True))
            how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            made = self.twins.move(op, x, [shape], [(), (factors, np.float32)], bare=bare, **how)
        else:
            n, c, h, w = x.shape
            if h % 2 or w % 2:
                return self._again(x)
            made = self.twins.move(op, x, [(n, 4 * c, h // 2, w // 2)], bare=bare, blocksize=2)
        return self.add(op, *made)

    def _again(self, x: Value) -> None:
        """Add nothing, and read nothing: what other layers shrink to."""
        self.readers[x.name] -= 1

    # ------------------------------------------------------------------------------------------------------------------

    def models(self) -> tuple[onnx.ModelProto, onnx.ModelProto]:
        outputs = [value for value in self.values if not self.readers.get(value.name)]
        outputs = outputs or self.values[-1:]
        if self.chance(4):
            others = [value for value in self.values[1:] if value not in outputs]
            outputs += [self.one_of(*others)] if others else []
        return self.twins.models([(value, self.chance()) for value in outputs])


def _broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    return len(small) == len(large) and all(a in (1, b) for a, b in zip(small, large, strict=True))
