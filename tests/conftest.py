"""Eight simulated devices, strict promotion and warnings as errors, for every test."""

import os

# Tests compile much and compute little: this compiles the same programs several times faster.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()

# Programs of an earlier run would make tests depend on it.
os.environ["RINGWORLD_COMPILATION_CACHE"] = "off"

import hypothesis  # noqa: E402
import jax  # noqa: E402 (reads XLA_FLAGS)

# The same examples in every run, so that a failure is a change of ours.
hypothesis.settings.register_profile("ringworld", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("ringworld")

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
