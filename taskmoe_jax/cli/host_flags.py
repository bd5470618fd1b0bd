"""The flags by which several processes train one model together."""

import argparse
import contextlib
import os

from taskmoe_jax.errors import TaskMoeError


def add_host_flags(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group(
    "hosts",
    "On TPU pods, GKE and Slurm the processes find each other. Elsewhere each"
    " is started with these flags, or with the variables named after them.",
  )
  group.add_argument(
    "--coordinator",
    default=os.environ.get("JAX_COORDINATOR_ADDRESS"),
    metavar="HOST:PORT",
    help="an address of process 0 (JAX_COORDINATOR_ADDRESS)",
  )
  group.add_argument(
    "--num_processes",
    type=int,
    default=_number("JAX_NUM_PROCESSES"),
    metavar="N",
    help="of the whole job (JAX_NUM_PROCESSES); 1: this process is alone",
  )
  group.add_argument(
    "--process_id",
    type=int,
    default=_number("JAX_PROCESS_ID"),
    metavar="I",
    help="of this process, from 0 (JAX_PROCESS_ID)",
  )
  group.add_argument(
    "--silence_seconds",
    type=float,
    default=60.0,
    metavar="S",
    help="give a process up that has said nothing for so long (60)",
  )


def connected(args: argparse.Namespace) -> contextlib.AbstractContextManager:
  """Joins the other processes; before anything asks JAX for its devices."""
  from taskmoe_jax.train import hosts

  return hosts.connected(
    coordinator=args.coordinator,
    num_processes=args.num_processes,
    process_id=args.process_id,
    silence_seconds=args.silence_seconds,
  )


def _number(variable: str) -> int | None:
  text = os.environ.get(variable)
  try:
    return None if text is None else int(text)
  except ValueError:
    raise TaskMoeError(
      f"{variable}={text!r} is no number. Set it to one, or unset it."
    ) from None
