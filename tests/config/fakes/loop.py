"""Top functions of two commands, and what they take."""


def train(model, *, num_steps, seed=0, run_dir=None, schedule=None):
  return {
    "model": model,
    "num_steps": num_steps,
    "seed": seed,
    "run_dir": run_dir,
    "schedule": schedule,
  }


def evaluate(*, beam_size, run_dir):
  return beam_size, run_dir


def warmup(step, *, num_warmup_steps):
  return min(1.0, step / num_warmup_steps)


def crash(*, message):
  raise KeyError(message)


def anything(**options):
  return options
