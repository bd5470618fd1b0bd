"""Training steps on rows of random tokens: ours, and t5x's."""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

# Of T5 1.1 with 8k pieces.
VOCABULARY = 8192
_TARGETS = ("de", "fr", "cs", "fi")


def step_of(flags: argparse.Namespace, name: str) -> Callable[[], float]:
  """A program that takes one step and returns its loss.

  Args:
    flags: Sizes; see `train_step`.
    name: `t5x`; `dense`, the same model of ours, and `tied`, with one table;
      `wide`, dense with the widths that `task_8` and `task_32` have active.
  """
  return _t5x(flags) if name == "t5x" else Ours(flags, name)


def _tokens(flags: argparse.Namespace) -> dict[str, np.ndarray]:
  generator = np.random.default_rng(0)
  shape = (flags.rows, flags.length)
  source, target = (
    generator.integers(3, VOCABULARY, shape).astype(np.int32) for _ in "st"
  )
  return {
    "encoder_input_tokens": source,
    "decoder_input_tokens": np.pad(target, ((0, 0), (1, 0)))[:, :-1],
    "decoder_target_tokens": target,
    "decoder_loss_weights": np.ones(shape, np.int32),
  }


class Ours:
  """Our trainer's step; `state` is what it has come to."""

  def __init__(self, flags: argparse.Namespace, name: str):
    import functools

    from benchmarks.made_up import made_up_vocabulary
    from taskmoe_jax.hosts.memory import keep_freed_memory
    from taskmoe_jax.models.losses import Objective
    from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
    from taskmoe_jax.partitioning.rules import Partitioning
    from taskmoe_jax.task_space import TaskSpace

    # The trainer as it is, with all that its import takes.
    from taskmoe_jax.train import loop, optimizers, schedules

    keep_freed_memory()
    space = TaskSpace.from_pairs([f"en-{code}" for code in _TARGETS], "target")
    vocabulary = made_up_vocabulary(VOCABULARY)
    program = loop.Program.of(
      loop.Run(_model(flags, name), space, vocabulary, 0),
      functools.partial(
        optimizers.adafactor,
        schedules.rsqrt_schedule(1.0, warmup_steps=1000),
        parameter_scale=True,
      ),
      Partitioning(make_mesh(MeshShape()), False),
      rows_per_task_group=flags.rows // len(_TARGETS),
      num_microbatches=1,
      objective=Objective(label_smoothing=0.0, z_loss_weight=1e-4),
    )
    self._batch = program.on_devices(_with_languages(_tokens(flags), space))
    self._program, self._step = program, program.compiled_step()
    self.state = program.initial_state()

  def __call__(self) -> float:
    import jax

    from taskmoe_jax.partitioning.rules import activate

    with activate(self._program.partitioning):
      self.state, metrics = self._step(self.state, self._batch)
    jax.block_until_ready(self.state)
    return float(metrics.loss) / float(metrics.tokens)


def _with_languages(
  batch: dict[str, np.ndarray], space: Any
) -> dict[str, np.ndarray]:
  """Rows of English, in groups of one target language."""
  english, *others = (space.language_id(code) for code in ("en", *_TARGETS))
  rows = len(batch["decoder_loss_weights"])
  languages = np.repeat(others, rows // len(_TARGETS)).astype(np.int32)
  weights = batch["decoder_loss_weights"].astype(np.float32)
  return {
    **batch,
    "decoder_loss_weights": weights,
    "source_language": np.full_like(languages, english),
    "target_language": languages,
  }


def _model(flags: argparse.Namespace, name: str) -> Any:
  from taskmoe_jax.layers.feed_forward import Activation
  from taskmoe_jax.models.config import Embeddings, ModelConfig, StackConfig
  from taskmoe_jax.moe.config import Dispatch, MoeConfig
  from taskmoe_jax.moe.granularity import TASK

  widths, moe = (flags.mlp_dim,), None
  if name == "wide":
    widths = (flags.mlp_dim, 2 * flags.mlp_dim)
  elif name.startswith("task_"):
    moe = MoeConfig(
      granularity=TASK,
      num_experts=int(name.removeprefix("task_")),
      num_selected=2,
      expert_mlp_dim=flags.mlp_dim,
      dispatch=Dispatch.AUTO,
      capacity_factor=1.0,
      group_size=64,
      balance_loss_weight=0.01,
      z_loss_weight=0.0,
    )
  stack = StackConfig(num_layers=flags.layers, mlp_dims=widths, moe=moe)
  return ModelConfig(
    vocab_size=VOCABULARY,
    embed_dim=flags.embed_dim,
    num_heads=flags.heads,
    head_dim=flags.embed_dim // flags.heads,
    activation=Activation.GATED_GELU,
    embeddings=Embeddings.ONE if name == "tied" else Embeddings.THREE,
    encoder=stack,
    decoder=stack,
    dropout_rate=flags.dropout,
  )


def _t5x_model(flags: argparse.Namespace) -> Any:
  """T5 1.1 with its optimizer, as its gin files put them together."""
  import seqio
  from t5x import adafactor, models
  from t5x.examples.t5 import network

  vocabulary = seqio.PassThroughVocabulary(VOCABULARY)
  return models.EncoderDecoderModel(
    module=network.Transformer(
      config=network.T5Config(
        vocab_size=VOCABULARY,
        emb_dim=flags.embed_dim,
        num_heads=flags.heads,
        num_encoder_layers=flags.layers,
        num_decoder_layers=flags.layers,
        head_dim=flags.embed_dim // flags.heads,
        mlp_dim=flags.mlp_dim,
        mlp_activations=("gelu", "linear"),
        dropout_rate=flags.dropout,
        logits_via_embedding=False,
      )
    ),
    input_vocabulary=vocabulary,
    output_vocabulary=vocabulary,
    optimizer_def=adafactor.Adafactor(
      decay_rate=0.8,
      step_offset=0,
      logical_factor_rules=adafactor.standard_logical_factor_rules(),
    ),
    z_loss=1e-4,
  )


def _t5x(flags: argparse.Namespace) -> Callable[[], float]:
  """T5 1.1 and its trainer, as its gin files put them together."""
  import jax

  # In this order: its modules import each other in a circle.
  from t5x import utils  # isort: skip
  from t5x import partitioning, trainer

  model = _t5x_model(flags)
  batch = _tokens(flags)
  partitioner = partitioning.PjitPartitioner(num_partitions=1)
  initializer = utils.TrainStateInitializer(
    optimizer_def=model.optimizer_def,
    init_fn=model.get_initial_variables,
    input_shapes={name: array.shape for name, array in batch.items()},
    partitioner=partitioner,
  )
  taking = trainer.Trainer(
    model=model,
    train_state=initializer.from_scratch(jax.random.PRNGKey(0)),
    partitioner=partitioner,
    eval_names=[],
    summary_dir=None,
    train_state_axes=initializer.train_state_axes,
    rng=jax.random.PRNGKey(1),
    learning_rate_fn=utils.create_learning_rate_scheduler(
      base_learning_rate=1.0, warmup_steps=1000
    ),
    num_microbatches=None,
  )

  def run_step():
    found = taking.train(iter([batch]), 1).result()
    jax.block_until_ready(taking.train_state)
    return float(next(v.value for k, v in found.items() if k == "loss"))

  return run_step
