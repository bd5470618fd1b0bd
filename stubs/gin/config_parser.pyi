import abc
import tokenize
from typing import Any, NamedTuple, TextIO

class Location(NamedTuple):
  filename: str | None
  line_num: int
  char_num: int | None
  line_content: str

class BindingStatement(NamedTuple):
  scope: str
  selector: str
  arg_name: str
  value: Any
  location: Location

class ImportStatement(NamedTuple):
  module: str
  is_from: bool
  alias: str | None
  location: Location
  def format(self) -> str: ...
  def bound_name(self) -> str: ...

class IncludeStatement(NamedTuple):
  filename: str
  location: Location

class BlockDeclaration(NamedTuple):
  scope: str
  selector: str
  location: Location

Statement = (
  BindingStatement | ImportStatement | IncludeStatement | BlockDeclaration
)

class ParserDelegate(metaclass=abc.ABCMeta):
  @abc.abstractmethod
  def configurable_reference(
    self, scoped_selector: str, evaluate: bool
  ) -> Any: ...
  @abc.abstractmethod
  def macro(self, name: str) -> Any: ...

class ConfigParser:
  def __init__(
    self, string_or_filelike: str | TextIO, parser_delegate: ParserDelegate
  ) -> None: ...
  def __iter__(self) -> ConfigParser: ...
  def __next__(self) -> Statement: ...
  @property
  def current_token(self) -> tokenize.TokenInfo: ...
  def parse_value(self) -> Any: ...

def parse_binding_key(binding_key: str) -> tuple[str, str, str]: ...
