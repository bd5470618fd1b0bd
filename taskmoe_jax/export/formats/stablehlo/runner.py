"""Translates with a bundle's StableHLO programs; needs nothing of taskmoe_jax.

  pip install jax flatbuffers sentencepiece
  python translate.py --symbol='<2de>' < source.txt > target.txt

Parameters and vocabulary are the bundle's: model.safetensors and
vocabulary.model, beside this file or one folder above.
"""

import argparse
import functools
import json
import pathlib
import sys
from collections.abc import Sequence

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import sentencepiece

PAD, EOS, UNK = 0, 1, 2
_SHORTEST = 32


class Translator:
  """The programs with their parameters, on the default device of JAX.

  Attributes:
    symbols: First tokens of sources, one for each target language.
    pieces: The vocabulary.
  """

  def __init__(self, folder=None):
    folder = folder or pathlib.Path(__file__).parent
    about = json.loads((folder / "programs.json").read_text())
    self.symbols = about["symbols"]
    self.pieces = sentencepiece.SentencePieceProcessor(
      model_proto=_of_bundle(folder, "vocabulary.model")
    )
    arrays = _read_safetensors(_of_bundle(folder, "model.safetensors"))
    self._parameters = [
      jnp.asarray(arrays[name] if block is None else arrays[name][block])
      for name, block in about["parameters"]
    ]
    self._programs = {
      name: _program((folder / f"{name}.bin").read_bytes())
      for name in ("start", "step", "greedy")
    }

  def translate(
    self, lines: Sequence[str], symbol: str | None = None, batch_size: int = 32
  ) -> list[str]:
    """The greedy translation of each line."""
    sources = self.sources(lines, symbol)
    full = [i for i, line in enumerate(lines) if line.strip()]
    found = [""] * len(lines)
    tokens, _ = self.greedy(
      [sources[i] for i in full],
      [2 * len(sources[i]) + 32 for i in full],
      batch_size,
    )
    for i, ids in zip(full, tokens, strict=True):
      found[i] = self.decode(ids)
    return found

  def sources(
    self, lines: Sequence[str], symbol: str | None = None
  ) -> list[list[int]]:
    """Token ids as the encoder wants them: symbol, pieces, end of sentence."""
    if symbol is None and len(self.symbols) == 1:
      symbol = self.symbols[0]
    if symbol not in self.symbols:
      raise ValueError(f"symbol {symbol!r} is not among {self.symbols}")
    first = self.pieces.piece_to_id(symbol)
    return [[first, *ids, EOS] for ids in self.pieces.encode(list(lines))]

  def greedy(
    self,
    sources: Sequence[Sequence[int]],
    limits: Sequence[int],
    batch_size: int,
  ) -> tuple[list[list[int]], list[float]]:
    """Token ids, end of sentence included, and their log-probabilities.

    Args:
      sources: Token ids.
      limits: Longest translation of each.
      batch_size: Rows translated together; fewer lines fill the batch up.
    """
    order = sorted(range(len(sources)), key=lambda i: -len(sources[i]))
    tokens, scores = [[]] * len(sources), [0.0] * len(sources)
    for first in range(0, len(order), batch_size):
      chosen = order[first : first + batch_size]
      most = np.zeros((batch_size,), np.int32)
      most[: len(chosen)] = [limits[i] for i in chosen]
      # The program has room for twice a source's length and 32.
      length = max(len(sources[chosen[0]]), (int(most.max()) - 31) // 2)
      rows, sums = self._programs["greedy"](
        self._parameters,
        padded([sources[i] for i in chosen], batch_size, length),
        most,
      )
      for i, row, score in zip(
        chosen, np.asarray(rows).tolist(), np.asarray(sums), strict=False
      ):
        row = row[: limits[i]]
        tokens[i] = row[: row.index(EOS) + 1] if EOS in row else row
        scores[i] = float(score)
    return tokens, scores

  def start(self, sources, places):
    """The memory of a search that begins; for searches of your own."""
    return self._programs["start"](self._parameters, sources, places)

  def step(self, tokens, memory, position, places):
    """Logits of what follows the tokens at a position, and the memory then."""
    return self._programs["step"](
      self._parameters, tokens, memory, position, places
    )

  def decode(self, ids: Sequence[int]) -> str:
    """The text of a translation; ids without a piece are unknown."""
    known = [i if i < len(self.pieces) else UNK for i in ids]
    return self.pieces.decode([i for i in known if i not in (PAD, EOS)])


def padded(
  sequences: Sequence[Sequence[int]], rows: int, least: int = 0
) -> np.ndarray:
  """As rows of 32, 64, 128, ... ids, so that few shapes are compiled."""
  length = _SHORTEST
  while length < max(least, *map(len, sequences)):
    length *= 2
  array = np.full((rows, length), PAD, np.int32)
  for row, ids in enumerate(sequences):
    array[row, : len(ids)] = ids
  return array


@functools.lru_cache(maxsize=8)
def _program(serialized: bytes):
  return jax.jit(jax.export.deserialize(bytearray(serialized)).call)


def _of_bundle(folder, name: str) -> bytes:
  for place in (folder, folder.parent):
    if (place / name).exists():
      return (place / name).read_bytes()
  raise FileNotFoundError(
    f"{name} is neither in {str(folder)!r} nor in {str(folder.parent)!r}: it is"
    " a file of the bundle that this folder belongs to. Copy it here too."
  )


def _read_safetensors(content: bytes) -> dict[str, np.ndarray]:
  """Arrays by name, without a copy: sizes, names and places, then numbers."""
  size = int.from_bytes(content[:8], "little")
  arrays = {}
  for name, about in json.loads(content[8 : 8 + size]).items():
    if name == "__metadata__":
      continue
    assert about["dtype"] == "F32", (name, about["dtype"])
    begin, end = about["data_offsets"]
    arrays[name] = np.frombuffer(
      content, "<f4", (end - begin) // 4, 8 + size + begin
    ).reshape(about["shape"])
  return arrays


def main(arguments: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--symbol", help="first token, if there are several")
  parser.add_argument("--batch_size", type=int, default=32)
  parser.add_argument(
    "--folder", type=pathlib.Path, help="of the programs; this one if not given"
  )
  flags = parser.parse_args(arguments)
  lines = [line.rstrip("\n") for line in sys.stdin]
  found = Translator(flags.folder).translate(
    lines, flags.symbol, flags.batch_size
  )
  for line in found:
    print(line)


if __name__ == "__main__":
  main()
