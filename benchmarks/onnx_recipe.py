"""From a folder of the format `huggingface` to ONNX Runtime, and what it costs.

  python benchmarks/onnx_recipe.py --folder=BUNDLE/huggingface \
    --symbol='<2de>' --lines=source.txt --out=ONNX

Writes `ONNX/float32` and `ONNX/int8`, translates the lines with PyTorch and
with both, and prints how many translations are PyTorch's, how far
log-probabilities are from PyTorch's, bytes, and seconds. It runs in an
environment of its own, because optimum-onnx 0.1.0 refuses transformers 5:

  python -m venv onnx-venv
  onnx-venv/bin/pip install optimum-onnx==0.1.0 onnxruntime onnx \
    transformers==4.57.6 torch rich

`quantize_dynamic` is a trap: it does not look into the branches of an `If`, so
that `decoder_model_merged.onnx` stays in float32 and no smaller. Hence
`use_merged=False`: two decoders, each quantized.
"""

import argparse
import functools
import importlib.metadata
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import optimum.onnxruntime
import rich.console
import rich.table
import torch
import transformers
from onnxruntime.quantization import QuantType, quantize_dynamic

_ROWS = 16
_PAD, _EOS = 0, 1
_GRAPHS = ("encoder_model", "decoder_model", "decoder_with_past_model")


def export_float32(folder: Path, out: Path) -> None:
  """Writes encoder, first decoding step and later steps, and the tokenizer."""
  model = optimum.onnxruntime.ORTModelForSeq2SeqLM.from_pretrained(
    folder, export=True, use_merged=False
  )
  model.save_pretrained(out)
  transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(out)


def quantize(float32: Path, out: Path) -> None:
  """Writes the same with int8 weights; activations as they come."""
  out.mkdir(parents=True)
  for path in float32.iterdir():
    if path.stem in _GRAPHS:
      quantize_dynamic(path, out / path.name, weight_type=QuantType.QInt8)
    elif path.is_file():
      (out / path.name).write_bytes(path.read_bytes())


def translate(
  model: Any, tokenizer: Any, lines: Sequence[str], beam_size: int
) -> list[list[int]]:
  """Token ids of the best hypothesis of each line."""
  found = []
  for first in range(0, len(lines), _ROWS):
    batch = tokenizer(
      lines[first : first + _ROWS], return_tensors="pt", padding=True
    )
    rows = model.generate(
      input_ids=batch.input_ids,
      attention_mask=batch.attention_mask,
      num_beams=beam_size,
      max_new_tokens=64,
    )
    for ids in rows[:, 1:].tolist():
      ends = ids.index(_EOS) + 1 if _EOS in ids else len(ids)
      found.append(ids[:ends])
  return found


def scores(
  model: Any,
  tokenizer: Any,
  lines: Sequence[str],
  targets: Sequence[Sequence[int]],
) -> torch.Tensor:
  """Log-probabilities of given translations."""
  found = []
  for line, ids in zip(lines, targets, strict=True):
    batch = tokenizer([line], return_tensors="pt")
    with torch.no_grad():
      logits = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        decoder_input_ids=torch.tensor([[_PAD, *ids[:-1]]]),
      ).logits
    log_probs = torch.log_softmax(logits[0], -1)
    found.append(log_probs[range(len(ids)), list(ids)].sum())
  return torch.stack(found)


def bytes_of(folder: Path) -> int:
  return sum(
    path.stat().st_size
    for path in folder.iterdir()
    if path.suffix in (".onnx", ".safetensors")
  )


def timed(function: Callable[[], Any], repeats: int) -> tuple[Any, float]:
  """What it returns, and its least CPU time, after a call that warms up."""
  function()
  least = float("inf")
  for _ in range(repeats):
    begin = time.process_time()
    found = function()
    least = min(least, time.process_time() - begin)
  return found, least


def compared(
  folders: dict[str, Path], lines: Sequence[str], beam_size: int, repeats: int
) -> list[dict[str, Any]]:
  """A row for each folder; the first is what the others are compared with."""
  rows: list[dict[str, Any]] = []
  reference: list[list[int]] = []
  wanted = torch.zeros(0)
  for name, folder in folders.items():
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if rows:
      options = onnxruntime.SessionOptions()
      options.intra_op_num_threads = torch.get_num_threads()
      model = optimum.onnxruntime.ORTModelForSeq2SeqLM.from_pretrained(
        folder, use_merged=False, session_options=options
      )
    else:
      model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    found, seconds = timed(
      functools.partial(translate, model, tokenizer, lines, beam_size), repeats
    )
    reference = reference or found
    of_reference = scores(model, tokenizer, lines, reference)
    wanted = wanted if rows else of_reference
    same = sum(a == b for a, b in zip(found, reference, strict=True))
    rows.append(
      {
        "engine": name,
        "beam": beam_size,
        "same": f"{same}/{len(lines)}",
        "max score difference": float((of_reference - wanted).abs().max()),
        "MB": bytes_of(folder) / 1e6,
        "CPU s": seconds,
      }
    )
  return rows


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--folder", type=Path, required=True)
  parser.add_argument("--symbol", required=True, help="such as <2de>")
  parser.add_argument("--lines", type=Path, required=True, help="sources")
  parser.add_argument("--out", type=Path, required=True, help="is not there")
  parser.add_argument("--beams", default="1,4")
  parser.add_argument("--repeats", type=int, default=2)
  parser.add_argument("--threads", type=int, default=1, help="of each")
  parser.add_argument("--json", type=Path, help="where to write the rows")
  flags = parser.parse_args()
  torch.set_num_threads(flags.threads)
  folders = {
    "pytorch": flags.folder,
    "onnx float32": flags.out / "float32",
    "onnx int8": flags.out / "int8",
  }
  export_float32(flags.folder, folders["onnx float32"])
  quantize(folders["onnx float32"], folders["onnx int8"])
  lines = [
    f"{flags.symbol} {line}" for line in flags.lines.read_text().splitlines()
  ]
  rows = []
  for beam_size in map(int, flags.beams.split(",")):
    rows += compared(folders, lines, beam_size, flags.repeats)
  versions = ", ".join(
    f"{name} {importlib.metadata.version(name)}"
    for name in ("transformers", "optimum-onnx", "onnxruntime", "torch")
  )
  table = rich.table.Table(*rows[0], title=versions)
  for row in rows:
    table.add_row(
      *(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values())
    )
  rich.console.Console().print(table)
  if flags.json:
    flags.json.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
  main()
