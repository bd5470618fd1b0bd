"""The report in words and as JSON."""

import dataclasses

import pytest
import rich.console

from taskmoe_jax.planning.collectives import Collective
from taskmoe_jax.planning.memory import DeviceMemory, Temporary
from taskmoe_jax.planning.pod_report import (
  Report,
  print_comparison,
  print_report,
  summary,
)
from taskmoe_jax.planning.time_estimate import TimeEstimate

GIB = 2**30
REPORT = Report(
  name="small, train, v9:1x2",
  mesh={"slice": 1, "data": 2, "expert": 3},
  devices=6,
  parameters=1_500_000,
  hbm_bytes=16 * GIB,
  memory=DeviceMemory(3 * GIB, 5 * GIB, 2 * GIB, GIB, 0),
  fits=True,
  flops=3e12,
  model_flops=2.5e12,
  peak_flops=50e12,
  time=TimeEstimate(
    compute=0.15, kernels=0.03, ici=0.08, dcn=0.02, exposed=0.05
  ),
  collectives=[
    Collective("all-reduce", ("data",), 7, 9_000_000, 9_000_000, 0),
    Collective("all-reduce", ("slice",), 1, 4_000_000, 0, 4_000_000),
  ],
  communication_bound={
    ("all-reduce", ("data",)): 6_000_000,
    ("all-to-all", ("expert",)): 5,
  },
  compile_s=12.0,
  temporaries=[Temporary(8_000_000, "f32[2,1000000]", "layer_1/mlp/add")],
)


def text_of(print_it, *arguments):
  console = rich.console.Console(width=160)
  with console.capture() as captured:
    print_it(console, *arguments)
  return captured.get()


def test_json_has_exactly_these_keys():
  assert REPORT.to_dict() == {
    "devices": 6,
    "parameters": 1_500_000,
    "hbm_bytes": 16 * GIB,
    "device_bytes": 9 * GIB,
    "fits": True,
    "flops": 3e12,
    "model_flops": 2.5e12,
    "estimate_s": pytest.approx(0.2),
    "collectives": [
      {
        "kind": "all-reduce",
        "axes": ["data"],
        "network": "ICI",
        "count": 7,
        "bytes": 9_000_000,
        "least_bytes": 6_000_000,
        "ici_bytes": 9_000_000,
        "dcn_bytes": 0,
      },
      {
        "kind": "all-reduce",
        "axes": ["slice"],
        "network": "DCN",
        "count": 1,
        "bytes": 4_000_000,
        "least_bytes": 0,
        "ici_bytes": 0,
        "dcn_bytes": 4_000_000,
      },
    ],
    "compile_s": 12.0,
  }


def test_in_words():
  lines = summary(REPORT)
  assert lines["mesh"] == "slice 1, data 2, expert 3"
  assert lines["memory of a device"] == (
    "9.00 GiB of 16.00 GiB: fits, 7.00 GiB to spare"
  )
  assert lines["FLOPs of a device"] == "3.000 T, 1.20 x the model's"
  assert lines["estimate of a step"] == "200.0 ms"
  assert lines["    in kernels, at the peak"] == "30.0 ms"
  # 2.5 T in 0.2 s, of 50 T a second.
  assert lines["MFU it implies"] == "25.0%"
  text = text_of(print_report, REPORT)
  for expected in ("9.0 MB", "6.0 MB", "DCN", "f32[2,1000000]", "all-to-all"):
    assert expected in text


@pytest.mark.parametrize(
  ("temporaries", "fits", "verdict"),
  [
    (5 * GIB, True, "fits, 7.00 GiB to spare"),
    (20 * GIB, False, "does not fit, by 8.00 GiB"),
    (5 * GIB, False, "does not fit, as the compiler lays it out"),
  ],
)
def test_verdicts(temporaries, fits, verdict):
  memory = dataclasses.replace(REPORT.memory, temporaries=temporaries)
  report = dataclasses.replace(REPORT, memory=memory, fits=fits)
  assert report.verdict == verdict


def test_one_that_was_refused():
  refused = dataclasses.replace(
    REPORT,
    fits=False,
    flops=None,
    time=None,
    collectives=None,
    communication_bound=None,
    temporaries=(),
  )
  assert summary(refused)["FLOPs of a device"] == "not compiled"
  assert summary(refused)["estimate of a step"] == "no estimate"
  assert refused.to_dict()["estimate_s"] is None
  assert "not compiled" in text_of(print_report, refused)


def test_a_network_of_unknown_speed():
  time = dataclasses.replace(REPORT.time, dcn=None)
  report = dataclasses.replace(REPORT, time=time)
  assert summary(report)["estimate of a step"] == "no estimate"
  assert "no estimate between" in summary(report)["  sending"]
  assert report.mfu is None


def test_beside_each_other():
  slower = dataclasses.replace(
    REPORT,
    name="slower",
    flops=6e12,
    time=TimeEstimate(0.25, 0.0, 0.0, 0.0, 0.0),
  )
  text = text_of(print_comparison, [REPORT, slower])
  rows = {
    line.split("│")[1].strip(): line.split("│")[2:4]
    for line in text.splitlines()
    if line.startswith("│")
  }
  assert [c.strip() for c in rows["estimate x first"]] == ["1.000", "1.250"]
  assert [c.strip() for c in rows["FLOPs x first"]] == ["1.000", "2.000"]
  assert [c.strip() for c in rows["sent x first"]] == ["1.000", "1.000"]
