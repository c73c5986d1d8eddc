"""Simulation: Verilated RTL behind a native harness, Amaranth's own simulator, and cocotb benches."""
