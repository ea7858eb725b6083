"""The interpreter of Mosaic GPU kernels, which jax does not export."""

from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

# Its threads wait for each other in a pool that has one for each simulated device: a block takes three.
INTERPRETER = InterpretGPUParams()
