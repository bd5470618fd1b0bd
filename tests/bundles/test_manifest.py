"""The manifest: its entries, and their order in the file."""

import json
import pathlib

from taskmoe_jax.bundles.manifest import About, Manifest, Origin
from taskmoe_jax.task_space import TaskSpace

OLD = pathlib.Path(__file__).parents[1] / "golden" / "old" / "bundle"


def test_a_manifest_of_old_has_the_same_bytes():
  text = (OLD / "manifest.json").read_text()
  manifest = Manifest.from_dict(json.loads(text))
  assert json.dumps(manifest.to_dict(), indent=2) == text
  assert manifest.source.step == 600
  assert manifest.about.parameters[1] == manifest.parameters.bundle


def test_entries_of_a_new_one_and_their_order():
  space = TaskSpace.from_pairs(("en-de", "fr-de"), "target")
  manifest = Manifest.of(
    About("de", "runs/a", 7, (9, 4), {"en-de": 3.0}),
    space,
    stacks={},
    check={"by": "mixture"},
    trimming={"lines": 1},
    cost={},
    bleu={},
    formats={},
  )
  entries = manifest.to_dict()
  assert " ".join(entries) == (
    "format task tasks pairs task_by source parameters stacks check trimming"
    " cost scores bleu formats sha256"
  )
  assert entries["format"] == 1
  assert entries["pairs"] == ["en-de", "fr-de"]
  assert entries["source"] == {"run": "runs/a", "step": 7}
  assert entries["parameters"] == {"mixture": 9, "bundle": 4}


def test_new_entries_come_last():
  """As the whole model and a bundle made of a bundle have them."""
  manifest = Manifest(task="de", check={}, formats={"plain": {}})
  smaller = manifest.with_entries(formats=None)
  assert "formats" not in smaller.to_dict()
  smaller = smaller.with_entries(source=Origin("a", 1), cost={}, formats={})
  assert list(smaller.to_dict())[-5:] == [
    "check",
    "scores",
    "cost",
    "formats",
    "sha256",
  ]


def test_unknown_entries_are_kept_where_they_are():
  entries = {
    "format": 1,
    "task": "de",
    "later": [1],
    "scores": {},
    "sha256": {},
  }
  written = Manifest.from_dict(entries).to_dict()
  assert list(written)[:4] == ["format", "task", "later", "scores"]
  assert written["later"] == [1]
