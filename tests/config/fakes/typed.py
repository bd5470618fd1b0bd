"""A function with one parameter of each kind of type."""

import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Any

from fakes.config import MoeConfig, StackConfig


class Side(enum.StrEnum):
  LEFT = "left"
  RIGHT = "right"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
  """Takes enums, as the constructors of ours do."""

  side: Side = Side.LEFT
  back: Side | None = None
  inner: "Page | None" = None

  def __post_init__(self):
    pass


def run(
  *,
  steps: int = 1,
  rate: float = 1.0,
  name: str = "",
  pack: bool = True,
  sizes: Sequence[int] = (),
  limit: int | None = None,
  schedule: Callable[[int], float] = abs,
  moe: MoeConfig | None = None,
  stack: StackConfig | None = None,
  side: Side | str = "left",
  start: Side = Side.LEFT,
  end: Side | None = None,
  mixture: Any = None,
  later: "Unknown" = None,
  plain=None,
  **options,
):
  return steps, rate


def ramp(*, num_steps: int = 3) -> Callable[[int], float]:
  return lambda step: step / num_steps


def count(step: int) -> int:
  return step


def load(path: str = "x"):
  return path


def turn(step: int, *, side: Side = Side.LEFT) -> tuple[int, Side]:
  return step, side


def side_of_a_file() -> str:
  return "right"
