import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from gin import config_parser

class Configurable(NamedTuple):
  wrapper: Callable[..., Any]
  wrapped: Callable[..., Any]
  name: str
  module: str
  import_source: tuple[config_parser.ImportStatement, str] | None
  allowlist: Sequence[str] | None
  denylist: Sequence[str] | None
  selector: str
  is_method: bool = False

class ConfigurableReference:
  @property
  def configurable(self) -> Configurable: ...
  @property
  def scopes(self) -> list[str]: ...
  @property
  def selector(self) -> str: ...
  @property
  def scoped_selector(self) -> str: ...
  @property
  def evaluate(self) -> bool: ...

class ParserDelegate(config_parser.ParserDelegate):
  def __init__(self, skip_unknown: bool | Sequence[str] = False) -> None: ...
  def configurable_reference(
    self, scoped_selector: str, evaluate: bool
  ) -> ConfigurableReference: ...
  def macro(self, name: str) -> ConfigurableReference: ...

class ImportManager:
  def __init__(
    self, imports: Iterable[config_parser.ImportStatement]
  ) -> None: ...
  @property
  def sorted_imports(self) -> list[config_parser.ImportStatement]: ...

class ParseContext:
  _symbol_table: dict[str, types.ModuleType]
  @property
  def imports(self) -> list[config_parser.ImportStatement]: ...
  def process_import(
    self, statement: config_parser.ImportStatement
  ) -> None: ...
  def get_configurable(self, selector: str) -> Configurable: ...

def iterate_references(
  config: Any, to: Callable[..., Any] | None = None
) -> Iterator[ConfigurableReference]: ...
def _parse_scope(
  import_manager: ImportManager | None = None,
) -> AbstractContextManager[ParseContext]: ...

_CONFIG: dict[tuple[str, str], dict[str, Any]]
_IMPORTS: set[config_parser.ImportStatement]
# A SelectorMap, which is no dict; used as one.
_REGISTRY: dict[str, Configurable]
_INVERSE_REGISTRY: dict[Callable[..., Any], Configurable]
