"""Which bundles an export writes, and of which tasks each is."""

from taskmoe_jax.errors import TaskMoeError, one_of
from taskmoe_jax.task_space import TaskSpace

# Tasks of one bundle, by its name.
Groups = dict[str, tuple[str, ...]]


def tasks_named(
  space: TaskSpace, names: str, flag: str = "--tasks"
) -> tuple[str, ...]:
  """Tasks for `all`, or a comma-separated list of tasks and pairs.

  A pair means its task: routed by target, `de-en` means `en`.
  """
  if names == "all":
    return space.tasks
  tasks: dict[str, None] = {}
  for name in names.split(","):
    if name in space.tasks:
      tasks[name] = None
    elif name in space.pairs:
      tasks[space.task_of_pair(name)] = None
    else:
      known = dict.fromkeys((*space.tasks, *space.pairs))
      raise TaskMoeError(
        one_of("task", name, ("all", *known)) + f". Set {flag}."
      )
  return tuple(tasks)


def groups_named(space: TaskSpace, tasks: str | None, union: str) -> Groups:
  """Which bundles to write: one for each task, and one for a union.

  Args:
    space: The run's.
    tasks: See `tasks_named`; if None, all, or none if there is a union.
    union: The same, of a bundle for all of these together; empty for none.
  """
  if tasks is None and not union:
    tasks = "all"
  names = () if tasks is None else tasks_named(space, tasks)
  groups: Groups = {name: (name,) for name in names}
  if union:
    together = set(tasks_named(space, union, "--union"))
    kept = tuple(task for task in space.tasks if task in together)
    groups["+".join(kept)] = kept
  return groups
