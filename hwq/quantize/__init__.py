"""Quantizers: weights for the forms in which the accelerator stores them."""
