import io

import rich.console

from taskmoe_jax.data.cache.cache_files import Shard
from taskmoe_jax.data.cache.writing import ShardProgress


def test_a_line_for_each_shard_with_the_time_left():
  now = [0.0]
  out = io.StringIO()
  console = rich.console.Console(file=out, width=100)
  shards = [Shard(f"en-de/train-{n}", 20 * n, 20 * n + 20) for n in range(5)]
  with ShardProgress(shards, console, clock=lambda: now[0]) as progress:
    progress.kept(shards[0])
    now[0] = 2.0
    for shard in shards[1:3]:
      progress.advance(20)
      progress.wrote(shard)
      now[0] += 38.0
  assert out.getvalue().splitlines() == [
    # 20 in 2 seconds, 60 to go.
    "en-de/train-1  40/100 examples  10 a second  ETA 0:06",
    # 40 in 40 seconds, 40 to go.
    "en-de/train-2  60/100 examples  1 a second  ETA 0:40",
  ]
