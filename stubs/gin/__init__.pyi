"""What `taskmoe_jax.config` uses of gin-config, which has no annotations.

For mypy only. Without it, mypy would take the folder gin/ of recipes for the
module. The private names are those of `config/gin_private.py`.
"""

from collections.abc import Callable
from typing import Any

from gin import config as config
from gin import config_parser as config_parser

def bind_parameter(
  binding_key: str | tuple[str, str, str], value: Any
) -> None: ...
def clear_config(clear_constants: bool = False) -> None: ...
def config_str(
  max_line_length: int = 80, continuation_indent: int = 4
) -> str: ...
def external_configurable(
  fn_or_cls: Callable[..., Any],
  name: str | None = None,
  module: str | None = None,
) -> Callable[..., Any]: ...
def get_bindings(
  fn_or_cls_or_selector: Callable[..., Any] | str,
  resolve_references: bool = True,
  inherit_scopes: bool = True,
) -> dict[str, Any]: ...
