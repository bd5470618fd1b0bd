"""The strictness of conftest.py and pyproject.toml is on, not only written."""

import os
import warnings

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from taskmoe_jax.errors import one_of


def test_there_are_eight_cpu_devices():
  assert [device.platform for device in jax.devices()] == ["cpu"] * 8


def test_ranks_do_not_promote():
  with pytest.raises(ValueError, match="shapes"):
    jnp.ones((2, 3)) + jnp.ones(3)


def test_signatures_of_the_package_are_checked():
  with pytest.raises(jaxtyping.TypeCheckError, match="one_of"):
    one_of(3, "x", ["y"])


def test_warnings_are_errors():
  with pytest.raises(UserWarning, match="careful"):
    warnings.warn("careful", stacklevel=1)


@pytest.mark.bit_for_bit
def test_equal_runs_are_compiled_anew():
  assert jax.config.jax_compilation_cache_dir is None
  assert os.environ["JAX_COMPILATION_CACHE_DIR"] == ""


def test_programs_are_kept_only_where_the_command_says():
  named = os.environ.get("TASKMOE_TEST_PROGRAMS", "")
  assert (jax.config.jax_compilation_cache_dir or "") == named
