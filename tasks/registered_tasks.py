"""Copies of the text of seqio tasks that are registered elsewhere."""

import functools
import hashlib
import importlib
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from taskmoe_jax.data.corpus import PARTS
from taskmoe_jax.data.seqio.registration import add_task
from taskmoe_jax.data.seqio.sources import ParallelSource
from taskmoe_jax.data.seqio.text_spool import spool
from taskmoe_jax.data.text.text_store import TextStore
from taskmoe_jax.errors import TaskMoeError, one_of
from taskmoe_jax.task_space import split_pair

_TOKENISERS = (
  seqio.preprocessors.tokenize,
  seqio.preprocessors.tokenize_and_append_eos,
)
_FEATURES = ("inputs", "targets")

_logger = logging.getLogger(__name__)


def mixture_of_copies(
  name: str,
  *,
  modules: Sequence[str],
  pairs: Mapping[str, str],
  revision: str,
  vocabulary: str | None,
) -> seqio.Mixture:
  """Returns a mixture of the text of seqio tasks; see `registered`."""
  for module in modules:
    try:
      importlib.import_module(module)
    except ImportError as error:
      raise TaskMoeError(
        f"cannot import {module!r} ({error}). Set registered.modules to those"
        " that register seqio tasks, and PYTHONPATH to where they are."
      ) from None
  found = _find(name)
  tasks = found.tasks if isinstance(found, seqio.Mixture) else [found]
  rates = []
  for task in tasks:
    if task.name not in pairs:
      raise TaskMoeError(
        f"seqio task {task.name!r} has no pair: registered.pairs has"
        f" {', '.join(pairs) or 'none'}. Set it there, such as"
        f" {{{task.name!r}: 'de-en'}}."
      )
    source = _source(task, pairs[task.name], revision)
    copy = add_task(f"registered_{task.name}", source, vocabulary)
    rate: float | Callable[[seqio.Task], float] = 1.0
    if isinstance(found, seqio.Mixture):
      rate = functools.partial(_rate, found, task)
    rates.append((copy, rate))
  return seqio.Mixture(f"registered_{name}", rates)


def _find(name: str) -> seqio.Task | seqio.Mixture:
  known = [*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()]
  if name not in known:
    raise TaskMoeError(
      f"{one_of('seqio task or mixture', name, known)}. Is its module imported?"
      " Set registered.modules and registered.name."
    )
  return seqio.get_mixture_or_task(name)


def _rate(mixture: seqio.Mixture, task: seqio.Task, _: seqio.Task) -> float:
  return mixture.get_rate(task)


def _source(task: seqio.Task, pair: str, revision: str) -> ParallelSource:
  texts = {
    part: functools.cache(functools.partial(_text, task, part, revision))
    for part in PARTS
    if part in task.splits
  }
  return ParallelSource(*split_pair(pair), texts)


def _text(task: seqio.Task, part: str, revision: str) -> TextStore:
  steps = _steps_before_tokens(task)
  key = {
    "task": task.name,
    "part": part,
    "revision": revision,
    "source": _source_key(task.source, part),
    "steps": [_function_key(step) for step in steps],
  }
  store = spool(
    f"{task.name}-{part}",
    key,
    functools.partial(_dataset, task, steps, part),
    features=_FEATURES,
  )
  _logger.info(
    "seqio task %r, %s: %d examples, read from their copy in %s",
    task.name,
    part,
    len(store),
    store.path.parent,
  )
  return store


def _steps_before_tokens(task: seqio.Task) -> list[Callable]:
  steps = []
  for step in task.preprocessors:
    function = step
    while isinstance(function, functools.partial):
      function = function.func
    if function in _TOKENISERS:
      break
    if not isinstance(step, seqio.CacheDatasetPlaceholder):
      steps.append(step)
  return steps


def _dataset(
  task: seqio.Task, steps: Sequence[Callable], part: str
) -> tf.data.Dataset:
  dataset = task.source.get_dataset(split=part, shuffle=False)
  for step in steps:
    dataset = seqio.utils.add_kwargs_to_transform(
      step, sequence_length=None, output_features=task.output_features
    )(dataset)
  spec = dataset.element_spec
  for feature in _FEATURES:
    found = spec.get(feature) if isinstance(spec, dict) else None
    is_text = getattr(found, "dtype", None) == tf.string
    if found is None or not is_text or found.shape.rank != 0:
      raise TaskMoeError(
        f"seqio task {task.name!r} does not give text as {feature!r} before its"
        f" seqio.preprocessors.tokenize step, but {found or 'nothing'}. A task"
        " that can be read here has 'inputs' and 'targets' of strings there."
      )
  return dataset


def _source_key(source: seqio.DataSource, part: str) -> dict[str, Any]:
  key: dict[str, Any] = {"kind": type(source).__name__}
  if isinstance(source, seqio.FileDataSource):
    key["files"] = [
      (path, (status := tf.io.gfile.stat(path)).length, status.mtime_nsec)
      for path in source.list_shards(part)
    ]
  elif isinstance(source, seqio.TfdsDataSource):
    dataset = source.tfds_dataset
    key["files"] = list(map(str, dataset.files(part) or ()))
    key["builder"] = str(dataset.builder.data_path)
  elif isinstance(source, seqio.FunctionDataSource):
    key["function"] = _function_key(source._dataset_fn)
  return key


def _function_key(function: Callable) -> str:
  """Changes with a function's own code and the arguments bound to it."""
  bound = []
  while isinstance(function, functools.partial):
    bound += [repr(function.args), repr(sorted(function.keywords.items()))]
    function = function.func
  try:
    code = inspect.getsource(function)
  except (OSError, TypeError):
    code = ""
  name = getattr(function, "__qualname__", type(function).__name__)
  digest = hashlib.sha256("\0".join([code, *bound]).encode()).hexdigest()
  return f"{name}:{digest[:16]}"
