"""How processes meet: what one process alone can show of it."""

import pytest
import rich.console

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.hosts import processes


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (
      {"coordinator": "a:1", "num_processes": 2},
      r"--coordinator=a:1, --num_processes=2 and --process_id=None belong"
      r" together\. Set all three, or none",
    ),
    (
      {"coordinator": "a:1", "num_processes": 2, "process_id": 2},
      r"process_id=2 is outside 0\.\.1, .* Set --process_id\.",
    ),
    (
      {"coordinator": "a", "num_processes": 2, "process_id": 0},
      r"coordinator 'a' has no port\. Set --coordinator to HOST:PORT",
    ),
  ],
)
def test_flags_that_make_no_sense(arguments, message):
  with (
    pytest.raises(TaskMoeError, match=message),
    processes.connected(**arguments),
  ):
    pass


def test_a_process_alone_waits_for_nobody():
  done = []
  with processes.connected(num_processes=1):
    processes.first_does("this", lambda: done.append(1))
    processes.check_agreement("that", {"the recipe": "x"})
    processes.wait_for_all("end")
  assert done == [1]
  console = rich.console.Console()
  assert processes.console(console) is console


@pytest.mark.parametrize(
  ("here", "there", "expected"),
  [
    ("a\nb = 1\n", "a\nb = 2\n", "'b = 1', not 'b = 2'"),
    ("a\n", "a\nc\n", "'nothing', not 'c'"),
    ("a\n", "a", "in its line breaks"),
  ],
)
def test_the_first_difference_of_two_texts(here, there, expected):
  assert processes.first_difference(here, there) == expected
