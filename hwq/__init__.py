"""hwq: quantized ONNX networks on a generated systolic array, equal on every rung from ONNX Runtime to the pin."""
