"""Compiled programs are kept on disk, so that a restart need not compile."""

import os


def use_compilation_cache() -> None:
  """Names a folder for JAX to keep compiled programs in.

  The user's cache (`$XDG_CACHE_HOME` or `~/.cache`), which all runs share; JAX
  tells programs apart. `JAX_COMPILATION_CACHE_DIR` names another, which may be
  in a bucket; if it is empty, nothing is kept.
  """
  folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
  if folder is None:
    home = os.path.expanduser("~/.cache")
    cache = os.environ.get("XDG_CACHE_HOME") or home
    folder = os.path.join(cache, "taskmoe_jax", "compiled")
  if folder:
    import jax

    jax.config.update("jax_compilation_cache_dir", folder)
