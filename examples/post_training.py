"""Post-training quantization, from a float network to the RTL: ``python examples/post_training.py``.

Some hundred images calibrate; nothing is trained. Weights of 4 bits run at up to twice the speed, and with activations
of 4 bits accuracy begins to suffer: `trained.py` goes on from there.
"""

from __future__ import annotations

import sys

from digits import float_network, load_samples, show, show_float

from hwq.quantize import Recipe, quantize


def main() -> int:
    """Quantize to three pairs of widths; return 1 where anything differs from ONNX Runtime."""
    train, test = load_samples()
    network = float_network(train)
    show_float(network, test)
    agreed = True
    for weights, activations in (("int8", "uint8"), ("int4", "uint8"), ("int4", "uint4")):
        recipe = Recipe(weights=weights, activations=activations)
        quantized = quantize(network, {"image": train.images[:256]}, recipe)
        agreed &= show(f"{weights} weights, {activations}", quantized, test)
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
