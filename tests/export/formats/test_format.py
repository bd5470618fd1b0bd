"""The registry of formats."""

import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.formats.format import formats_named


def test_an_unknown_format_is_refused():
  with pytest.raises(TaskMoeError, match=r"unknown format 'onxx'.*--formats"):
    formats_named("onxx")


def test_no_format_beside_our_own():
  assert formats_named("") == {}
