import pytest

from taskmoe_jax.decoding.search import Beam, Lengths, Sampling
from taskmoe_jax.errors import TaskMoeError


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (
      lambda: Beam(size=0, length_penalty=1.0),
      "size=0 is not at least 1. Set Beam.size.",
    ),
    (
      lambda: Beam.from_dict(
        {"size": 2, "length_penalty": 1.0, "stopping": "sur"}
      ),
      "unknown stopping 'sur': accepted are full, likely, sure (did you mean"
      " 'sure'?). Set Beam.stopping.",
    ),
    (
      lambda: Beam.from_dict(
        {"size": 2, "length_penalty": 1.0, "normalization": "hf"}
      ),
      "unknown normalization 'hf': accepted are gnmt, power. Set"
      " Beam.normalization.",
    ),
    (
      lambda: Sampling(temperature=0.0),
      "temperature=0.0 is not above 0. Set Sampling.temperature.",
    ),
    (
      lambda: Sampling(temperature=1.0, top_p=1.5),
      "top_p=1.5 is outside (0, 1]. Set Sampling.top_p.",
    ),
    (
      lambda: Sampling(temperature=1.0, top_k=0),
      "top_k=0 is not at least 1. Set Sampling.top_k.",
    ),
    (
      lambda: Lengths(max_source=1),
      "max_source=1 is not at least 2. Set Lengths.max_source.",
    ),
  ],
)
def test_mistakes(make, message):
  with pytest.raises(TaskMoeError) as error:
    make()
  assert str(error.value) == message


def test_the_longest_translation():
  assert Lengths().target_limit(10) == 52
  assert Lengths(max_target=7).target_limit(10) == 7
