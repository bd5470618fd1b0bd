"""Hooks from outside the package, added by a recipe alone."""

import json
import sys

import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.train.hooks.hook import Hook, Place, check_hooks, in_order

MODULE = '''
from taskmoe_jax.train.hooks.hook import Hook, Place

CALLS = []


class Ratio(Hook):
  """Adds to every report what only a measurement can see."""

  place = Place.MEASURE

  def __init__(self, name: str, scale: float = 1.0):
    self.name, self.scale = name, scale

  def after_step(self, moment):
    CALLS.append((moment.done, "ratio"))
    if moment.report_due:
      moment.report[self.name] = self.scale * moment.tokens

  def close(self):
    CALLS.append("ratio closed")


class Early(Hook):
  """Bound last and called first: asks for the reports of odd steps."""

  place = Place.REQUEST

  def after_step(self, moment):
    CALLS.append((moment.done, "early"))
    if moment.done % 2:
      moment.report_due = True

  def close(self):
    CALLS.append("early closed")
'''


@pytest.fixture
def outside(tmp_path, monkeypatch):
  """The module `outside_hooks`, of which the package knows nothing."""
  folder = tmp_path / "elsewhere"
  folder.mkdir()
  (folder / "outside_hooks.py").write_text(MODULE)
  monkeypatch.syspath_prepend(folder)
  yield
  sys.modules.pop("outside_hooks", None)


@pytest.mark.expensive("it compiles or runs whole programs")
def test_a_recipe_adds_hooks_and_each_has_its_place(
  outside, small_recipe, taskmoe, tmp_path
):
  recipe = tmp_path / "mine.gin"
  recipe.write_text(
    f"""
from __gin__ import dynamic_registration
import outside_hooks
from taskmoe_jax.models import config
from taskmoe_jax.train import loop

include '{small_recipe}'

RUN_DIR = '{tmp_path / "run"}'
TRAIN_STEPS = 4
LOG_EVERY = 4
CHECKPOINT_EVERY = 4
config.StackConfig.num_layers = 1
config.StackConfig.moe = None
outside_hooks.Ratio.name = 'mine/tokens'
outside_hooks.Ratio.scale = 2.0
loop.train.hooks = [@outside_hooks.Ratio(), @outside_hooks.Early()]
"""
  )
  taskmoe("train", f"--gin_file={recipe}")
  import outside_hooks

  calls = outside_hooks.CALLS
  assert calls == [
    *((step, name) for step in range(1, 5) for name in ("early", "ratio")),
    "ratio closed",
    "early closed",
  ]
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  reports = [json.loads(line) for line in lines]
  # Steps 1 and 3 because the hook says so, step 4 because it is the last.
  assert [report["step"] for report in reports] == [1, 3, 4]
  assert all(report["mine/tokens"] > 0 for report in reports)
  # A recipe that is kept can be started again.
  assert "loop.train.hooks" in (tmp_path / "run" / "config.gin").read_text()


class _At(Hook):
  def __init__(self, place, name=""):
    self.place, self.name = place, name


def test_hooks_of_one_place_stay_in_the_order_of_their_list():
  hooks = [_At(place) for place in reversed(Place)]
  assert [hook.place for hook in in_order(hooks)] == list(Place)
  alike = [_At(Place.JUDGE, name) for name in "cab"]
  mixed = [alike[0], _At(Place.WATCH), alike[1], _At(Place.COUNT), alike[2]]
  assert [hook for hook in in_order(mixed) if hook in alike] == alike


@pytest.mark.parametrize(
  ("hooks", "message"),
  [
    (
      _At(Place.SAVE),
      r"hooks=<.*_At object .*> is not a list\. Set loop\.train\.hooks to",
    ),
    (
      ["mine"],
      r"'mine' in loop\.train\.hooks is not a Hook\. Derive its class from"
      r" taskmoe_jax\.train\.hooks\.hook\.Hook",
    ),
    (
      [Hook()],
      r"the hook Hook in loop\.train\.hooks has no place in the order\. Set"
      r" Hook\.place to one of Place\.REQUEST, .*, Place\.WATCH\.",
    ),
    ([_At(3)], r"the hook _At .* has no place in the order"),
  ],
)
def test_what_is_not_a_hook(hooks, message):
  with pytest.raises(TaskMoeError, match=message):
    check_hooks(hooks)
