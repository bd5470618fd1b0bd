"""The top function of a fake command."""


def sing(*, song, num_verses):
  print(f"{song} x {num_verses}")
