"""Quantization-aware training, from a float network to the RTL: ``python examples/trained.py``.

The network learns under the rounding and the bounds that the array has, so 4 bits everywhere cost next to nothing.
"""

from __future__ import annotations

import sys

from digits import float_network, load_samples, show, show_float

from hwq.quantize import qat


def main() -> int:
    """Train at two pairs of widths; return 1 where anything differs from ONNX Runtime."""
    train, test = load_samples()
    network = float_network(train)
    show_float(network, test)
    agreed = True
    for weights, activations in (("int4", "uint4"), ("int2", "uint8")):
        recipe = qat.Recipe(weights=weights, activations=activations, epochs=10, batch=64)
        trained = qat.train(network, {"image": train.images}, train.labels, recipe)
        agreed &= show(f"{weights} weights, {activations}, trained", trained.model, test)
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
