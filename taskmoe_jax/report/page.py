"""The page of a run: facts, routing, sizes, losses and scores."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from etils import epath

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.evaluate import tables
from taskmoe_jax.evaluate.metrics import METRICS
from taskmoe_jax.evaluate.metrics import label as metric_label
from taskmoe_jax.evaluate.page import pair_chart
from taskmoe_jax.evaluate.results import RESULTS, Results, read_results
from taskmoe_jax.export.extract import reduced_config
from taskmoe_jax.export.selection import stacks_routed_by_task
from taskmoe_jax.files import write_whole
from taskmoe_jax.models.config import ModelConfig, StackConfig
from taskmoe_jax.models.parameters import abstract_params, parameter_count
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.pages.markup import Html, document, element, joined, table
from taskmoe_jax.report import pictures
from taskmoe_jax.report.history import History, read_history
from taskmoe_jax.report.routing import StackRouting, read_routing
from taskmoe_jax.runs.checkpoint_folders import checkpoint_folder
from taskmoe_jax.runs.directory import Run, load_run

FLOAT32_BYTES = 4


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Numbers of parameters.

  Attributes:
    mixture: Parameters of the whole model.
    sub_network: Parameters of one task's sub-network, the same for every task;
      None if no sub-network can be extracted.
    stacks: Parameters of encoder and decoder: in the mixture and in the
      sub-network.
  """

  mixture: int
  sub_network: int | None
  stacks: dict[str, tuple[int, int]]


def sizes_of(model: ModelConfig, num_tasks: int) -> Sizes:
  """Counts parameters without making any.

  Args:
    model: The mixture's config.
    num_tasks: R, the number of tasks of its task space.
  """
  small = sub_network_config(model)
  whole = abstract_params(Transformer(model, num_tasks))
  kept = abstract_params(Transformer(small, 1))
  return Sizes(
    parameter_count(whole),
    None if small == model else parameter_count(kept),
    {
      name: (parameter_count(whole[name]), parameter_count(kept[name]))
      for name in ("encoder", "decoder")
    },
  )


def sub_network_config(model: ModelConfig) -> ModelConfig:
  """The config of what `export.extract` makes; the same if it refuses to."""
  reduced: dict[str, Any] = {
    name: reduced_config(stack)
    for name, stack in stacks_routed_by_task(model).items()
  }
  return dataclasses.replace(model, **reduced)


def report_page(
  run_dir: epath.Path,
  run: Run,
  routings: Sequence[StackRouting],
  history: History,
  *,
  step: int,
) -> str:
  """Makes the page, one file that needs no other."""
  routings = list(routings)
  return document(
    f"{run_dir}, step {step}",
    _facts(run, step),
    pictures.routing_section(routings),
    pictures.kinship_section(routings),
    _sizes_section(run),
    pictures.loss_section(history),
    pictures.load_section(history),
    _scores_section(run_dir, step),
    _recipe(run_dir),
  )


def _facts(run: Run, step: int) -> Html:
  model, space = run.model, run.task_space
  rows = [
    ["step", f"{step:,}"],
    [
      "model",
      f"width {model.embed_dim}, {model.num_heads} heads of {model.head_dim},"
      f" {model.activation}, {model.embeddings} vocabulary table(s),"
      f" {model.dtype}",
    ],
    ["encoder", _stack(model.encoder)],
    ["decoder", _stack(model.decoder)],
    ["vocabulary", f"{len(run.vocabulary):,} pieces"],
    ["a task is", f"a {_TASK_BY[space.task_by]}"],
    ["tasks", f"{len(space.tasks)}: {', '.join(space.tasks)}"],
    ["pairs", f"{len(space.pairs)}: {', '.join(space.pairs)}"],
    ["seed", str(run.seed)],
  ]
  return element(
    "table",
    element(
      "tbody",
      *(
        element(
          "tr",
          element("td", name),
          element("td", value, style="text-align: left; white-space: normal"),
        )
        for name, value in rows
      ),
    ),
  )


_TASK_BY = {
  "target": "target language",
  "source": "source language",
  "pair": "pair of languages",
}


def _stack(stack: StackConfig) -> str:
  widths = " and ".join(map(str, stack.mlp_dims))
  if stack.moe is None:
    return f"{stack.num_layers} dense layers of hidden width {widths}"
  moe = stack.moe
  dense = f" after dense ones of hidden width {widths}" if widths else ""
  return (
    f"{stack.num_layers} layers, {stack.num_blocks} of them MoE{dense}:"
    f" {moe.num_experts} experts of hidden width {moe.expert_mlp_dim}, of which"
    f" {moe.num_selected} are chosen by {moe.granularity}"
  )


def _sizes_section(run: Run) -> Html:
  space = run.task_space
  sizes = sizes_of(run.model, len(space.tasks))
  rows = [["the mixture", len(space.pairs), *_size_cells(sizes.mixture, sizes)]]
  if sizes.sub_network is None:
    about = (
      "No sub-network can be extracted: the task alone decides on no stack's"
      " experts, so every task needs the whole model."
    )
  else:
    about = "Of each task's sub-network, as `taskmoe export` makes it. " + (
      "; ".join(
        f"{name} {whole:,} → {kept:,}"
        + (" (kept whole)" if whole == kept else "")
        for name, (whole, kept) in sizes.stacks.items()
      )
      + " parameters."
    )
    rows += [
      [
        task,
        len(space.pairs_of_task(task)),
        *_size_cells(sizes.sub_network, sizes),
      ]
      for task in space.tasks
    ]
  columns = ["", "pairs", "parameters", "float32", "of the mixture"]
  return joined(
    [
      element("h2", "Sizes"),
      element("p", about, class_="soft"),
      table(columns, rows, sortable=True),
    ]
  )


def _size_cells(count: int, sizes: Sizes) -> list[tuple[str, float | int]]:
  size = count * FLOAT32_BYTES
  share = count / sizes.mixture
  return [
    (f"{count:,}", count),
    (f"{size / 1e6:,.1f} MB", size),
    (f"{share:.1%}", share),
  ]


def _scores_section(run_dir: epath.Path, step: int) -> Html:
  """The results that `taskmoe evaluate` wrote into the run's directory."""
  parts = [element("h2", "Scores by pair")]
  for path in sorted((run_dir / "evaluation").glob(f"*/{RESULTS}")):
    try:
      results = read_results(path.parent)
      if results["step"] == step:
        parts += [element("h3", path.parent.name), _scores(results)]
    except TaskMoeError as error:
      # Damaged, or scored by a metric whose module cannot be imported here.
      parts.append(element("p", str(error), class_="note"))
  if len(parts) == 1:
    parts.append(
      element(
        "p",
        f"Nothing has been evaluated at step {step}:"
        f" `taskmoe evaluate --run_dir={run_dir} --step={step}` does.",
        class_="soft",
      )
    )
  return joined(parts)


def _scores(results: Results) -> Html:
  rows = results["pairs"]
  named = results.get("scoring", {}).get("metrics", ())
  known = dict.fromkeys([*METRICS, *named])
  metrics = [name for name in known if all(name in row for row in rows)]
  averages = ", ".join(
    f"{name} {metric_label(metrics[0])} {row[metrics[0]]:.2f}"
    for name, row in tables.group_rows(results)
  )
  return joined(
    [
      element("p", f"Means: {averages}.", class_="soft"),
      pair_chart(rows, metrics[0]),
      element(
        "details",
        element("summary", "All scores"),
        table(
          ["pair", "examples", *(metric_label(name) for name in metrics)],
          [
            [
              row["pair"],
              row["examples"],
              *((tables.score_text(row, name), row[name]) for name in metrics),
            ]
            for row in rows
          ],
          sortable=True,
        ),
      ),
    ]
  )


def _recipe(run_dir: epath.Path) -> Html:
  path = run_dir / "config.gin"
  if not path.exists():
    return element("p", "The run keeps no config.gin.", class_="note")
  return joined(
    [
      element("h2", "Recipe"),
      element(
        "details",
        element("summary", "config.gin, as it was run"),
        element("pre", path.read_text()),
      ),
    ]
  )


def report(
  run_dir: epath.PathLike,
  *,
  step: int | None = None,
  out: epath.PathLike | None = None,
) -> epath.Path:
  """Writes one page of what a run has learnt and how it is routed.

  Of the checkpoint only routers are read, so a page of a model that is larger
  than this machine's memory takes seconds.

  Args:
    run_dir: The run directory.
    step: Which checkpoint; the newest unless given. Later steps of the log are
      left out.
    out: The file; `RUN_DIR/report-<step>.html` unless given. A page that is
      there already is replaced: all that is on it is made again.

  Returns:
    Where the page is.

  Raises:
    TaskMoeError: This is no run, it has no checkpoint (of that step), its log
      is damaged, or the file cannot be written.
  """
  folder = epath.Path(run_dir)
  run = load_run(folder)
  _, step = checkpoint_folder(folder, step)
  path = epath.Path(out) if out else folder / f"report-{step}.html"
  if path.is_dir():
    raise TaskMoeError(
      f"the page {str(path)!r} would replace a folder. Set --out to a file."
    )
  history = read_history(folder, until=step)
  routing = read_routing(folder, run, history, step=step)
  page = report_page(folder, run, routing, history, step=step)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page.encode())
  except OSError as error:
    reason = error.strerror or error
    raise TaskMoeError(
      f"cannot write the page {str(path)!r} ({reason}). Set --out to another"
      " file."
    ) from None
  return path
