"""Every test sees eight CPU devices, so that none skips for lack of them.

There is no persistent compilation cache: a run must not depend on the one
before it, least of all where a test compares two runs bit for bit.
"""

import os

# Before jax is imported, and in the environment, so that the programs which
# tests start see the same devices.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# TensorFlow greets on import.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import jax

# A forgotten axis must not broadcast. Implicit dtype promotion stays allowed:
# with jax_numpy_dtype_promotion="strict" optax 0.2.8's Adam (float ** int32)
# and flax 0.12.8's norms (bfloat16 input, float32 scale) raise.
jax.config.update("jax_numpy_rank_promotion", "raise")
