"""How far the writing of a cache is: a bar, or a line a shard in a log."""

import time
from collections.abc import Callable, Sequence

import rich.console
import rich.progress

from taskmoe_jax.data.cache_files import Shard


class ShardProgress:
  """Counts examples that are in the cache; a context manager.

  The time left is judged by what this process wrote itself, since shards that
  are there already cost nothing.
  """

  def __init__(
    self,
    shards: Sequence[Shard],
    console: rich.console.Console,
    *,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._total = sum(shard.end - shard.begin for shard in shards)
    self._console = console
    self._clock = clock
    self._begin = clock()
    self._written = self._kept = 0
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn("caching"),
      rich.progress.BarColumn(),
      rich.progress.MofNCompleteColumn(),
      rich.progress.TextColumn("examples  {task.description}"),
      console=console,
      disable=not console.is_terminal,
    )
    self._task = self._bar.add_task("", total=self._total)

  def __enter__(self) -> "ShardProgress":
    self._bar.start()
    return self

  def __exit__(self, *_) -> None:
    self._bar.stop()

  def advance(self, examples: int) -> None:
    """Sees that this process has taken examples in."""
    self._written += examples
    self._update()

  def kept(self, shard: Shard) -> None:
    """Sees that a shard was there already."""
    self._kept += shard.end - shard.begin
    self._update()

  def wrote(self, shard: Shard) -> None:
    """Sees that a shard is finished."""
    if not self._console.is_terminal:
      done = self._written + self._kept
      self._console.print(
        f"{shard.name}  {done}/{self._total} examples  {self._speed()}",
        highlight=False,
        soft_wrap=True,
      )

  def _update(self) -> None:
    self._bar.update(
      self._task,
      completed=self._written + self._kept,
      description=self._speed(),
    )

  def _speed(self) -> str:
    seconds = self._clock() - self._begin
    if not self._written or seconds <= 0:
      return "ETA ?"
    speed = self._written / seconds
    left = (self._total - self._written - self._kept) / speed
    minutes, seconds = divmod(round(left), 60)
    return f"{speed:.0f} a second  ETA {minutes}:{seconds:02}"
