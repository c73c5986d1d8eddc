"""The accelerator in Amaranth HDL, one component a file."""
