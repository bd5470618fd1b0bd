"""Sections of the page that are pictures: routing, kinship, load, losses."""

import numpy as np
from jaxtyping import Float

from taskmoe_jax.pages.curves import curves
from taskmoe_jax.pages.heat_map import cell_size, dendrogram, heat_map
from taskmoe_jax.pages.markup import Html, element, joined
from taskmoe_jax.report.history import History
from taskmoe_jax.report.routing import StackRouting, kinship

# Of a training's reports; where there are more, columns are means of several.
_MOST_COLUMNS = 60


def routing_section(routings: list[StackRouting]) -> Html:
  """Heat maps, tasks by experts, of each MoE layer."""
  parts = [element("h2", "Experts of tasks")]
  for routing in routings:
    parts += [
      element("h3", routing.name.capitalize()),
      element("p", routing.about, class_="soft"),
    ]
    if routing.weights is not None:
      panels = _layers(routing, routing.weights)
      parts.append(element("div", *panels, class_="panels"))
  return joined(parts)


def _layers(
  routing: StackRouting, weights: Float[np.ndarray, "layers R E"]
) -> list[Html]:
  experts = [str(expert) for expert in range(weights.shape[-1])]
  largest = weights.max()
  return [
    _figure(
      f"layer {layer}: tasks × experts, full colour {largest:.2f}",
      heat_map(
        of_layer,
        routing.tasks,
        experts,
        title=f"{routing.name}, layer {layer}: experts of each task",
        largest=largest,
      ),
    )
    for layer, of_layer in zip(routing.layers, weights, strict=True)
  ]


def kinship_section(routings: list[StackRouting]) -> Html:
  """Which tasks share experts, as a heat map in the order of its tree."""
  parts = [
    element("h2", "Tasks that share experts"),
    element(
      "p",
      "How much of their experts' weight two tasks have in common, the mean"
      " over a stack's MoE layers: 1 for the same experts with the same"
      " weights, 0 for none. The tree joins groups by the mean of their tasks,"
      " the further right the less they share, and orders the tasks. In the"
      " paper's target-routed model related languages shared some experts of"
      " the decoder.",
      class_="soft",
    ),
  ]
  for routing in routings:
    parts.append(element("h3", routing.name.capitalize()))
    if routing.weights is None:
      parts.append(element("p", routing.about, class_="soft"))
    elif len(routing.tasks) < 2:
      only = f"There is one task, {routing.tasks[0]}: nothing to compare."
      parts.append(element("p", only, class_="soft"))
    else:
      parts.append(_kinship(routing))
  return joined(parts)


def _kinship(routing: StackRouting) -> Html:
  kin = kinship(routing)
  size = cell_size(len(kin.tasks))
  shared = kin.shared[~np.eye(len(kin.tasks), dtype=bool)]
  return _figure(
    f"mean of every two tasks {shared.mean():.3f}, largest {shared.max():.3f}",
    heat_map(
      kin.shared,
      kin.tasks,
      kin.tasks,
      title=f"{routing.name}: weight that two tasks have in common",
      largest=1.0,
      beside=dendrogram(kin.merges, kin.order, row=size),
    ),
  )


def load_section(history: History) -> Html:
  """The load of each expert over the training, by MoE layer."""
  parts = [element("h2", "Load over training")]
  if not history.loads:
    none = "metrics.jsonl has no load of experts: no layer has any, or no log."
    return joined([*parts, element("p", none, class_="soft")])
  parts.append(
    element(
      "p",
      "The share of a layer's choices that fell on each expert, of all tasks."
      " Even load would be one colour.",
      class_="soft",
    )
  )
  figures = []
  for layer in sorted(history.loads, key=_depth):
    steps, loads = history.loads[layer]
    groups = np.array_split(
      np.arange(len(steps)), min(_MOST_COLUMNS, len(steps))
    )
    means = np.stack([loads[group].mean(0) for group in groups], axis=1)
    largest = float(np.nanmax(means)) or 1.0
    experts = loads.shape[1]
    figures.append(
      _figure(
        f"{layer.replace('/', ', ').replace('_', ' ')}: experts × steps, full"
        f" colour {largest:.3f}, even {1 / experts:.3f}",
        heat_map(
          means,
          [str(expert) for expert in range(experts)],
          [str(steps[group[-1]]) for group in groups],
          title=f"{layer}: load of experts over the training",
          largest=largest,
        ),
      )
    )
  return joined([*parts, element("div", *figures, class_="panels")])


def _depth(layer: str) -> tuple[bool, int]:
  """Sorts `encoder/layer_3` as data passes through."""
  stack, number = layer.split("/layer_")
  return stack == "decoder", int(number)


def loss_section(history: History) -> Html:
  """The loss curve."""
  finite = {
    name: points
    for name, points in history.losses.items()
    if np.isfinite([loss for _, loss in points]).any()
  }
  if not finite:
    drawn = element("p", "metrics.jsonl has no loss.", class_="soft")
  else:
    drawn = joined(
      [
        element("p", "In nats a target token.", class_="soft"),
        curves(finite, title="loss over the training", x_name="step"),
      ]
    )
  return joined([element("h2", "Loss"), drawn])


def _figure(caption: str, drawing: Html) -> Html:
  return element("figure", element("figcaption", caption), drawing)
