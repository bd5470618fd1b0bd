"""Where the time and the memory of a run go."""

import resource
import sys

import jax

from taskmoe_jax.train.hooks import Hook, Moment

# What trains nothing. All else is steps, and what they are reported by.
_LOST = (
  "restoring",
  "compilation",
  "input",
  "checkpoints",
  "evaluation",
  "profiling",
)


class Goodput(Hook):
  """The share of this start's time that went into steps, and what had the rest.

  `time/input` (waiting for batches), `time/checkpoints` and `time/evaluation`,
  `time/compilation`, `time/restoring` (or drawing the parameters) and
  `time/profiling` are shares of all the time since the run was started, and
  `goodput` is 1 without them.
  """

  def after_step(self, moment: Moment) -> None:
    if moment.report_due:
      seconds, total = moment.spent.seconds, moment.spent.total
      shares = {name: seconds.get(name, 0.0) / total for name in _LOST}
      moment.report["goodput"] = 1 - sum(shares.values())
      moment.report |= {f"time/{name}": share for name, share in shares.items()}


class Memory(Hook):
  """Peak memory since the start of the process, in units of 1e9 bytes.

  `memory/host_peak_gb` of this process and, where the devices can tell,
  `memory/device_peak_gb` of the fullest of its devices and
  `memory/device_limit_gb`, what that one has. A CPU cannot tell.
  """

  def after_step(self, moment: Moment) -> None:
    if not moment.report_due:
      return
    moment.report["memory/host_peak_gb"] = host_peak_bytes() / 1e9
    statistics = [device.memory_stats() for device in jax.local_devices()]
    told = [found for found in statistics if found]
    if told:
      fullest = max(told, key=lambda found: found.get("peak_bytes_in_use", 0))
      for name, key in (
        ("peak", "peak_bytes_in_use"),
        ("limit", "bytes_limit"),
      ):
        if key in fullest:
          moment.report[f"memory/device_{name}_gb"] = fullest[key] / 1e9


def host_peak_bytes() -> int:
  """The most memory that this process has had at once."""
  # Linux counts in units of 1024 bytes, macOS in bytes.
  unit = 1 if sys.platform == "darwin" else 1024
  return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
