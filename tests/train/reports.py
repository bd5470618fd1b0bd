"""What two runs that compute the same must both report."""

# What clocks and memories say differs from run to run; the rest must not.
_COMPUTED = ("loss", "accuracy", "z_loss", "learning_rate", "gradient_norm")


def of_the_computation(report):
  return {
    name: value
    for name, value in report.items()
    if name in ("step", "skipped_updates", *_COMPUTED)
    or name.startswith(("loss/", "routing/", "data/"))
  }
