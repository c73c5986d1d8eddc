"""What a classifier's quantization changes: accuracy by class, confidence, robustness, and telling the unknown."""
