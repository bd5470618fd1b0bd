"""Our decoder against Hugging Face's, with the same weights, side by side.

  python benchmarks/engines.py --beams=1,4

A dense model of random weights, T5's shape, becomes a PyTorch
`T5ForConditionalGeneration`. Both translate the same batch in turn, in one
process, on the CPU, with `--threads` of PyTorch's; give XLA as many cores
(`taskset -c 0,1`). Needs `torch` and `transformers`, which nothing else here
does: `pip install torch transformers`.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import rich.console
import rich.table
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import decode, decode_programs
from taskmoe_jax.host_memory import keep_freed_memory
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
from taskmoe_jax.partitioning.rules import Partitioning
from taskmoe_jax.vocabulary import EOS_ID, PAD_ID

_ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "out"}


def hugging_face(params, model) -> transformers.T5ForConditionalGeneration:
  """A PyTorch model that computes what ours does with unrolled `params`."""
  config = transformers.T5Config(
    vocab_size=model.vocab_size,
    d_model=model.embed_dim,
    d_kv=model.head_dim,
    d_ff=model.encoder.mlp_dims[0],
    num_layers=model.encoder.num_layers,
    num_decoder_layers=model.decoder.num_layers,
    num_heads=model.num_heads,
    feed_forward_proj="relu",
    dropout_rate=0.0,
    pad_token_id=PAD_ID,
    eos_token_id=EOS_ID,
    decoder_start_token_id=PAD_ID,
  )
  module = transformers.T5ForConditionalGeneration(config).eval()
  weights = {}
  for name in module.state_dict():
    value = _weight(params, name, model.embed_dim)
    weights[name] = torch.from_numpy(np.ascontiguousarray(value))
  module.load_state_dict(weights)
  return module


def _weight(params, name: str, embed_dim: int) -> np.ndarray:
  """The matrix that Hugging Face knows by `name`; it has them transposed."""
  stack, *path = name.split(".")
  if stack in ("shared", "lm_head") or path[0] == "embed_tokens":
    return np.asarray(params["embedding"]["table"])
  if path[0] == "final_layer_norm":
    return np.asarray(params[stack]["final_norm"]["scale"])
  if path[-2] == "relative_attention_bias":
    return np.asarray(params[stack]["position_bias"]["table"])
  block, part, kind = int(path[1]), int(path[3]), path[-2]
  if stack == "encoder":
    layer = jax.tree.map(
      lambda leaf: leaf[block], params[stack]["blocks"]["layer_0"]
    )
    ours = ("self_attention", "mlp")[part]
  else:
    layer = params[stack][f"block_{block}"]["layer_0"]
    ours = ("self_attention", "source_attention", "mlp")[part]
  if kind == "layer_norm":
    return np.asarray(layer[f"{ours}_norm"]["scale"])
  if kind in ("wi", "wo"):
    return np.asarray(layer[ours][kind]).T
  matrix = np.asarray(layer[ours][_ATTENTION[kind]])
  if kind == "o":
    return matrix.reshape(-1, embed_dim).T
  return matrix.reshape(embed_dim, -1).T


def race(
  programs: dict[str, Callable[[], np.ndarray]], repeats: int
) -> dict[str, dict[str, Any]]:
  """Least seconds, by the wall and of the process, of each; in turn."""
  found = {
    name: {"wall": np.inf, "cpu": np.inf, "tokens": program()}
    for name, program in programs.items()
  }
  for _ in range(repeats):
    for name, program in programs.items():
      wall, cpu = time.perf_counter(), time.process_time()
      program()
      best = found[name]
      best["wall"] = min(best["wall"], time.perf_counter() - wall)
      best["cpu"] = min(best["cpu"], time.process_time() - cpu)
  return found


def compared(
  flags: argparse.Namespace, beam_size: int, partitioning: Partitioning
) -> dict[str, Any]:
  """One row of the table."""
  flags.beam_size = beam_size
  setting = decode_programs.Setting.from_flags(flags, "dense")
  params = decode_programs.random_params(setting, partitioning)
  ours = decode_programs.translation(setting, params, partitioning, flags.rows)
  module = hugging_face(params, setting.model)
  sources = torch.from_numpy(decode_programs.sources(setting, flags.rows))

  def theirs() -> np.ndarray:
    with torch.inference_mode():
      found = module.generate(
        sources.long(),
        attention_mask=torch.ones_like(sources),
        num_beams=beam_size,
        max_new_tokens=flags.steps,
        length_penalty=0.6,
        do_sample=False,
        early_stopping=False,
      )
    return found[:, 1:].numpy()

  found = race(
    {
      "ours": lambda: np.asarray(ours().tokens)[:, 0],
      "hugging_face": theirs,
    },
    flags.repeats,
  )
  tokens = {name: of_one.pop("tokens") for name, of_one in found.items()}
  width = tokens["hugging_face"].shape[1]
  same = np.all(tokens["ours"][:, :width] == tokens["hugging_face"], axis=1)
  row: dict[str, Any] = {"beam": beam_size, "rows": flags.rows}
  for kind in ("wall", "cpu"):
    for name, of_one in found.items():
      row[f"{name} {kind} s"] = of_one[kind]
    row[f"{kind} ratio"] = found["hugging_face"][kind] / found["ours"][kind]
  return {**row, "same": f"{int(same.sum())}/{flags.rows}"}


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--beams", default="1,4")
  parser.add_argument("--rows", type=int, default=32)
  parser.add_argument("--threads", type=int, default=os.cpu_count())
  parser.add_argument("--vocab_size", type=int, default=32000, help="V")
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--json", type=Path, help="where to write the rows")
  own = parser.parse_args(arguments)
  flags = decode.parse([])
  vars(flags).update(vars(own))
  keep_freed_memory()
  torch.set_num_threads(flags.threads)
  mesh = make_mesh(MeshShape(data=1, expert=1, model=1), jax.devices()[:1])
  rows = [
    compared(flags, beam_size, Partitioning(mesh))
    for beam_size in map(int, flags.beams.split(","))
  ]
  table = rich.table.Table(*rows[0], title="seconds for one batch")
  for row in rows:
    table.add_row(*(decode.text(value) for value in row.values()))
  rich.console.Console().print(table)
  if flags.json:
    flags.json.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return rows


if __name__ == "__main__":
  main()
