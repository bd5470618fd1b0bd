"""What an engine returns."""

import flax.struct
from jaxtyping import Array, Bool, Float


@flax.struct.dataclass
class Dispatched:
  """The mixed output of the experts, and what became of the choices.

  Attributes:
    y: `sum_k gate_k · FFN_k(x)`; of padding it may be anything finite.
    kept: Which choices were served; None if all were. Of padding it may be
      anything.
  """

  y: Float[Array, "B L D"]
  kept: Bool[Array, "B L K"] | None
