"""The names of axes: one letter for shapes, one word for sharding.

Letters, in signatures, einsums and comments alike:

| letter | size of |
| --- | --- |
| `B` | batch rows |
| `L` | the length at hand; `S` source length and `T` target length where both |
| `D` | model width |
| `N` | attention heads, each `H` wide |
| `F` | hidden width of a feed-forward network |
| `V` | vocabulary |
| `E` | experts, of which `K` are chosen and each takes `C` tokens of a group |
| `M` | candidates: the experts that a task's tokens are routed among |
| `G` | groups: of tokens in `capacity`, of rows of one task in `expert_fetch` |
| `R` | tasks (routes) |

Words name the logical axes that `partitioning.rules` maps to mesh axes.
Parameters and activations have different words, because the same width is often
sharded one way at rest and another way in flight.
"""

# Axes of parameters.
VOCAB = "vocab"
EMBED = "embed"
HEADS = "heads"
KV = "kv"
MLP = "mlp"
EXPERT = "expert"
TASK = "task"
LAYER = "layer"  # the blocks of a scanned stack
POSITION = "position"  # buckets of the relative position bias
# Experts that are fetched are whole in number and split in width.
FETCHED_EXPERT = "fetched_expert"
FETCHED_MLP = "fetched_mlp"

PARAMETER_AXES = (
  VOCAB,
  EMBED,
  HEADS,
  KV,
  MLP,
  EXPERT,
  TASK,
  LAYER,
  POSITION,
  FETCHED_EXPERT,
  FETCHED_MLP,
)

# Axes of activations.
ACT_BATCH = "act_batch"
ACT_LENGTH = "act_length"
ACT_EMBED = "act_embed"
ACT_HEADS = "act_heads"
ACT_KV = "act_kv"
ACT_MLP = "act_mlp"
ACT_VOCAB = "act_vocab"

ACTIVATION_AXES = (
  ACT_BATCH,
  ACT_LENGTH,
  ACT_EMBED,
  ACT_HEADS,
  ACT_KV,
  ACT_MLP,
  ACT_VOCAB,
)

# Axes of the mesh. Slices have a slow network between them, which only the sum
# of gradients crosses. FSDP is no axis but a rule, `embed -> data`.
SLICE_MESH = "slice"
DATA_MESH = "data"
EXPERT_MESH = "expert"
MODEL_MESH = "model"

MESH_AXES = (SLICE_MESH, DATA_MESH, EXPERT_MESH, MODEL_MESH)
