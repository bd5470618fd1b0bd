"""How fast chips could be: the denominator of MFU."""

import re

_TERA = 1e12

# Dense products in bfloat16, FLOP/s of one `jax.Device`, as their makers
# publish it: cloud.google.com/tpu/docs (a chip of v2, v3 and TPU7x is two
# devices) and NVIDIA's data sheets (without sparsity). First match counts.
_PEAKS = (
  (r"TPU v2", 45 / 2 * _TERA),
  (r"TPU v3", 123 / 2 * _TERA),
  (r"TPU v4", 275 * _TERA),
  (r"TPU v5( lite|e)", 197 * _TERA),
  (r"TPU v5p?", 459 * _TERA),
  (r"TPU v6( lite|e)", 918 * _TERA),
  (r"TPU ?v?7x?", 2307 / 2 * _TERA),
  (r"NVIDIA A100\b.*", 312 * _TERA),
  (r"NVIDIA H100 PCIe", 756 * _TERA),
  (r"NVIDIA H100 NVL", 835 * _TERA),
  (r"NVIDIA H100 80GB HBM3", 989 * _TERA),
  (r"NVIDIA H200 NVL", 835 * _TERA),
  (r"NVIDIA H200", 989 * _TERA),
)


def peak_flops(device_kind: str) -> float | None:
  """Peak FLOP/s of one device in bfloat16, or None for a kind not listed.

  None and no guess: a wrong peak would make an MFU that looks like a right one.
  A CPU has none.

  Args:
    device_kind: As `jax.Device` calls itself, such as `TPU v4`.
  """
  for pattern, peak in _PEAKS:
    if re.fullmatch(pattern, device_kind):
      return peak
  return None
