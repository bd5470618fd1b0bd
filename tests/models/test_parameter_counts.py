"""The paper's sizes (docs/design/paper.md), from the recipes; no memory.

The paper's millions count matrices only. We count every parameter, so norms,
position tables, routers and task tables are in the formula as well.
"""

import copy

import gin
import jax
import pytest
from flax import linen as nn

from taskmoe_jax.cli import commands
from taskmoe_jax.config import gin_files
from taskmoe_jax.export.extract import extract

V = 64000
MILLION = 1e6


@pytest.fixture
def model_of():
  """Builds the model config of a recipe, and nothing else of it."""

  def build(recipe, *flags):
    folder = () if recipe.startswith("wmt") else ("--gin.TSV_FOLDER=x",)
    gin_files.load(
      [f"recipes/{recipe}.gin"],
      ["--gin.RUN_DIR=x", *folder, *flags],
      top_functions=commands.top_functions(),
    )
    # gin's references build what they name when they are copied.
    return copy.deepcopy(
      gin.query_parameter("taskmoe_jax.train.loop.train.model")
    )

  yield build
  gin.clear_config()


def count(params):
  return sum(leaf.size for leaf in jax.tree.leaves(nn.unbox(params)))


def matrices(d, f, experts, decoder):
  """A stack of 6 layers, 3 of them with so many experts: what the paper counts.

  Self-attention is four D x D matrices, and so is attention to the source.
  """
  attention = (8 if decoder else 4) * d * d
  return 6 * attention + 3 * 2 * d * f + 3 * experts * 2 * d * f


def extras(d, heads, decoder, routers=0, tasks=0):
  """Norms of 6 layers and a final one; 32 buckets; three routers; tasks."""
  norms = (6 * (3 if decoder else 2) + 1) * d
  return norms + 32 * heads + 3 * d * routers + tasks * d


def stack_counts(config, abstract_params, num_tasks):
  params = abstract_params(config, num_tasks)
  return count(params["encoder"]), count(params["decoder"]), count(params)


@pytest.mark.parametrize(
  ("recipe", "d", "f", "heads", "encoder", "decoder", "total"),
  [
    ("wmt_dense_base", 512, 2048, 8, 19, 25, 142),
    ("web_dense_big", 1024, 8192, 16, 126, 151, 473),
  ],
)
def test_dense(
  recipe, d, f, heads, encoder, decoder, total, model_of, abstract_params
):
  counts = stack_counts(model_of(recipe), abstract_params, num_tasks=16)
  exact = [
    matrices(d, f, 1, False) + extras(d, heads, False),
    matrices(d, f, 1, True) + extras(d, heads, True),
  ]
  assert list(counts) == [*exact, sum(exact) + 3 * V * d]
  assert [round(n / MILLION) for n in counts] == [encoder, decoder, total]


@pytest.mark.slow
def test_wmt_mixture(model_of, abstract_params):
  """32 experts: 214M + 221M (220.2M by formula), 533M (532.4M) in all."""
  config = model_of("wmt_task_moe_32e")
  d, f, tasks = 512, 2048, 16
  counts = stack_counts(config, abstract_params, tasks)
  by_matrices = [matrices(d, f, 32, False), matrices(d, f, 32, True)]
  assert [round(n / MILLION, 1) for n in by_matrices] == [213.9, 220.2]
  assert round((sum(by_matrices) + 3 * V * d) / MILLION, 1) == 532.4
  exact = [
    by_matrices[0] + extras(d, 8, False, routers=32),
    by_matrices[1] + extras(d, 8, True, routers=32, tasks=tasks),
  ]
  assert list(counts) == [*exact, sum(exact) + 3 * V * d]
  assert round(counts[2] / MILLION) == 533


@pytest.mark.slow
def test_web_mixture(model_of, abstract_params):
  """128 experts: 6.5B in each stack, 13.3B in all."""
  config = model_of("web_task_moe_128e")
  d, f, tasks = 1024, 8192, 204
  counts = stack_counts(config, abstract_params, tasks)
  exact = [
    matrices(d, f, 128, False) + extras(d, 16, False, routers=128),
    matrices(d, f, 128, True) + extras(d, 16, True, 128, tasks),
  ]
  assert list(counts) == [*exact, sum(exact) + 3 * V * d]
  assert [round(n / 1e9, 1) for n in counts] == [6.5, 6.5, 13.3]


def extracted(config, abstract_params):
  """Shapes of a sub-network's parameters, by the extraction itself.

  From static routing, where it can be traced, because it needs no parameter's
  value to tell the experts; the shapes are the same for every task router.
  """
  kept = []

  def parameters(params):
    params, dense, _ = extract(params, config, task_ids=(3,), num_tasks=16)
    kept.append(dense)
    return params

  shapes = jax.eval_shape(parameters, nn.unbox(abstract_params(config, 16)))
  # It is what the extracted config asks for.
  asked = nn.unbox(abstract_params(kept[0], 16))
  assert jax.tree.map(lambda x: x.shape, shapes) == jax.tree.map(
    lambda x: x.shape, asked
  )
  return shapes


@pytest.mark.slow
def test_wmt_sub_network(model_of, abstract_params):
  """Both stacks: 25M + 32M (31.5M by formula), 155M in all."""
  config = model_of(
    "wmt_task_moe_32e", "--gin.ENCODER=static", "--gin.DECODER=static"
  )
  params = extracted(config, abstract_params)
  d, f = 512, 2048
  exact = [
    matrices(d, f, 2, False) + extras(d, 8, False),
    matrices(d, f, 2, True) + extras(d, 8, True),
  ]
  counts = [count(params["encoder"]), count(params["decoder"]), count(params)]
  assert counts == [*exact, sum(exact) + 3 * V * d]
  assert [round(n / MILLION) for n in counts] == [25, 31, 155]
  assert round(matrices(d, f, 2, True) / MILLION, 1) == 31.5


@pytest.mark.slow
def test_wmt_sub_network_of_the_decoder(model_of, abstract_params):
  """The paper's best model: 344M once its decoder is extracted."""
  config = model_of("wmt_task_moe_32e", "--gin.DECODER=static")
  params = extracted(config, abstract_params)
  assert round(count(params) / MILLION) == 344


@pytest.mark.slow
def test_web_sub_network(model_of, abstract_params):
  """A decoder of 201M, and 6.9B with an encoder that is routed by token."""
  config = model_of("web_task_moe_128e", "--gin.DECODER=static")
  params = extracted(config, abstract_params)
  exact = matrices(1024, 8192, 2, True) + extras(1024, 16, True)
  assert count(params["decoder"]) == exact
  assert round(exact / MILLION) == 201
  assert round(count(params) / 1e9, 1) == 6.9
