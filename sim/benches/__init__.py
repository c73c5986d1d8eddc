"""cocotb benches, one a component; `sim.cocotb_runner.run` runs them."""
