import jax
import jax.numpy as jnp
import pytest

from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.extract import extract
from taskmoe_jax.export.verify import verify
from taskmoe_jax.models.config import ComputeDtype
from taskmoe_jax.task_space import TaskSpace


@pytest.fixture(scope="module")
def mixture(mixture_of):
  return mixture_of()


@pytest.fixture
def small_of(mixture):
  """Extracts a sub-network for `en`, of the weights and task that are said."""

  def make(params=mixture.params, task="en"):
    space = mixture.task_space
    params, config, _ = extract(
      params, mixture.model, (space.task_id(task),), len(space.tasks)
    )
    served = TaskSpace.from_pairs(("de-en", "fr-en"), "target")
    return Translator(config, params, served, mixture.vocabulary)

  return make


@pytest.fixture
def english(samples):
  return {pair: samples[pair] for pair in ("de-en", "fr-en")}


@pytest.mark.expensive("it compiles models")
def test_a_sub_network_passes(mixture, small_of, english):
  check = verify(mixture, small_of(), english)
  assert check.sentences == 8
  assert check.identical_translations == 8
  assert 0 < check.max_logit_difference < 1e-4


@pytest.mark.slow
def test_bfloat16_is_compared_in_float32(mixture, small_of, english):
  """Rounding of activations would hide a difference, and make one."""
  coarse = type(mixture.model)(
    **{**vars(mixture.model), "dtype": ComputeDtype.BFLOAT16}
  )
  whole = Translator(
    coarse, mixture.params, mixture.task_space, mixture.vocabulary
  )
  small = small_of()
  small.model = type(coarse)(
    **{**vars(small.model), "dtype": ComputeDtype.BFLOAT16}
  )
  assert verify(whole, small, english) == verify(mixture, small_of(), english)


def _change(params, change, *path):
  """A copy of the parameters with one leaf changed."""
  name, *rest = path
  return {
    **params,
    name: _change(params[name], change, *rest)
    if rest
    else change(params[name]),
  }


_EXPERTS = ("decoder", "blocks", "layer_1", "moe", "experts")


@pytest.mark.parametrize(
  ("name", "change", "path"),
  [
    # Both experts are right, their weights are not.
    (
      "gate",
      lambda table: table * 0.9,
      ("decoder", "blocks", "layer_1", "moe", "router", "table"),
    ),
    # The other way round: experts 0 and 1 are exchanged.
    ("expert", lambda wo: jnp.roll(wo, 1, axis=1), (*_EXPERTS, "wo")),
    ("weight", lambda wi: wi.at[1, :, 2, 3].add(0.05), (*_EXPERTS, "wi")),
    ("task vector", lambda table: table + 0.1, ("encoder", "task_table")),
  ],
)
def test_what_is_not_its_mixture_is_noticed(
  mixture, small_of, english, name, change, path
):
  small = small_of(_change(mixture.params, change, *path))
  with pytest.raises(
    TaskMoeError,
    match=r"the sub-network for de-en, fr-en is not its mixture: logits differ"
    r" by up to \d\.\de[-+]\d+ \(at most 1e-04 is rounding\), and \d of 8"
    r" translations differ\. Nothing was written\.",
  ):
    verify(mixture, small, english)


def test_another_task_is_noticed(mixture, small_of, english):
  with pytest.raises(TaskMoeError, match="is not its mixture"):
    verify(mixture, small_of(task="de"), english)


@pytest.mark.slow
def test_numbers_that_are_none_are_noticed(mixture, small_of, english):
  params = jax.tree.map(lambda leaf: leaf * jnp.nan, mixture.params)
  broken = Translator(
    mixture.model, params, mixture.task_space, mixture.vocabulary
  )
  with pytest.raises(TaskMoeError, match="logits differ by up to nan"):
    verify(broken, small_of(params), english)
