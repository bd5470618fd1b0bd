"""Fails a test that takes more CPU time than it says.

CPU time of this process and of those it has started and awaited, because it is
nearly the same on a loaded machine. Fixtures do not count, nor does a test that
happens to be the first to import TensorFlow, Hugging Face or the like.
"""

import os
import sys

import pytest

INI = "cpu_seconds_of_a_test"
# So many modules come only with a large library.
MANY_MODULES = 300


def pytest_addoption(parser):
  parser.addini(INI, "CPU seconds that a test may take unless it is expensive.")


def _cpu_seconds() -> float:
  times = os.times()
  return times.user + times.system + times.children_user + times.children_system


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
  limit = float(item.config.getini(INI))
  modules, before = len(sys.modules), _cpu_seconds()
  result = yield
  seconds = _cpu_seconds() - before
  if (
    seconds > limit
    and item.get_closest_marker("expensive") is None
    and len(sys.modules) - modules < MANY_MODULES
  ):
    pytest.fail(
      f"it took {seconds:.1f} CPU seconds, and {limit:g} are allowed"
      f" ({INI} in pyproject.toml): make it cheaper, or mark it"
      ' @pytest.mark.expensive("why")',
      pytrace=False,
    )
  return result
