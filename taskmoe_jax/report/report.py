"""Writes the page of a run."""

from etils import epath

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.files import write_whole
from taskmoe_jax.report.history import read_history
from taskmoe_jax.report.page import report_page
from taskmoe_jax.report.routing import read_routing
from taskmoe_jax.runs.checkpoint_folders import checkpoint_folder
from taskmoe_jax.runs.directory import load_run


def report(
  run_dir: epath.PathLike,
  *,
  step: int | None = None,
  out: epath.PathLike | None = None,
) -> epath.Path:
  """Writes one page of what a run has learnt and how it is routed.

  Of the checkpoint only routers are read, so a page of a model that is larger
  than this machine's memory takes seconds.

  Args:
    run_dir: The run directory.
    step: Which checkpoint; the newest unless given. Later steps of the log are
      left out.
    out: The file; `RUN_DIR/report-<step>.html` unless given. A page that is
      there already is replaced: all that is on it is made again.

  Returns:
    Where the page is.

  Raises:
    TaskMoeError: This is no run, it has no checkpoint (of that step), its log
      is damaged, or the file cannot be written.
  """
  folder = epath.Path(run_dir)
  run = load_run(folder)
  _, step = checkpoint_folder(folder, step)
  path = epath.Path(out) if out else folder / f"report-{step}.html"
  if path.is_dir():
    raise TaskMoeError(
      f"the page {str(path)!r} would replace a folder. Set --out to a file."
    )
  history = read_history(folder, until=step)
  routing = read_routing(folder, run, history, step=step)
  page = report_page(folder, run, routing, history, step=step)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page.encode())
  except OSError as error:
    reason = error.strerror or error
    raise TaskMoeError(
      f"cannot write the page {str(path)!r} ({reason}). Set --out to another"
      " file."
    ) from None
  return path
