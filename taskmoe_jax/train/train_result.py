"""What a training returns."""

import dataclasses

from taskmoe_jax.train.run_directory import Run


@dataclasses.dataclass(frozen=True)
class TrainResult:
  """What a finished run can say of itself.

  Attributes:
    run: What was trained.
    run_dir: Where it is.
    step: Steps done in all.
    seconds: Of this start of the run, compilation included.
    tokens_per_second: Target tokens, over the steps after compilation.
    parameters: Of the whole mixture.
    stopped: Why it ended before its last step, if it did.
  """

  run: Run
  run_dir: str
  step: int
  seconds: float
  tokens_per_second: float
  parameters: int
  stopped: str | None = None
