"""Orbax checkpoints: atomic, resumable, on any number of devices.

A checkpoint holds the state (unreplicated arrays), the position of the input pipeline and a little
JSON. The two newest steps and the best one are kept. If the newest cannot be read, the one before
it is used, with a warning.
"""

import logging
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from oldphoto_jax.errors import CheckpointError
from oldphoto_jax.training import parallel

_log = logging.getLogger(__name__)

# Fields of states in version 0.1 -> their names now.
FORMER = {'params': 'g', 'opt': 'g_opt'}


def manager(folder: str | pathlib.Path, score: str | None) -> ocp.CheckpointManager:
  """Opens (or makes) a folder of checkpoints.

  Args:
    folder: the folder of this stage's checkpoints.
    score: the metric, among those given to `save`, whose highest value marks the best step. None if
      only the newest steps matter.
  """
  policies = ocp.checkpoint_managers
  folder = pathlib.Path(folder).resolve()
  if score is None:
    newest = ocp.CheckpointManagerOptions(preservation_policy=policies.LatestN(2))
    return _open(folder, newest)

  def best(metrics):
    return metrics[score]

  # Both are needed: best_fn by itself deletes the newest step, and with only a policy best_step()
  # returns the newest.
  keep = policies.AnyPreservationPolicy(
    [
      policies.LatestN(2),
      policies.BestN(get_metric_fn=best, n=1, keep_checkpoints_without_metrics=False),
    ]
  )
  options = ocp.CheckpointManagerOptions(best_fn=best, best_mode='max', preservation_policy=keep)
  return _open(folder, options)


def _open(folder: pathlib.Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
  # Handlers are given at once, so that shapes are known before anything is restored.
  handlers = {'state': ocp.StandardCheckpointHandler(), 'data': ocp.JsonCheckpointHandler()}
  return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)


def save(
  checkpoints: ocp.CheckpointManager,
  step: int,
  state: Any,
  data: dict[str, int],
  metrics: dict[str, float] | None,
) -> None:
  """Saves a step in the background. An existing step is kept.

  `metrics` are None if the step was not evaluated: it can then be resumed from, but never be best.
  """
  if step in checkpoints.all_steps():
    return
  arguments = ocp.args.Composite(
    state=ocp.args.StandardSave(parallel.to_global(state)), data=ocp.args.JsonSave(data)
  )
  checkpoints.save(step, metrics=metrics, args=arguments)


def restore(
  checkpoints: ocp.CheckpointManager, like: Any, step: int | None = None
) -> tuple[int, Any, dict[str, int]] | None:
  """Loads the newest step that can be read, or exactly `step`.

  Args:
    checkpoints: see `manager`.
    like: a state or a dict (or its jax.eval_shape) with the structure, shapes and dtypes to expect.
    step: None for the newest.

  Returns:
    (step, state, data), or None if the folder holds no step at all.

  Raises:
    CheckpointError: there are steps but none can be read, or they belong to a different network.
  """
  steps = sorted(checkpoints.all_steps(), reverse=True) if step is None else [step]
  if not steps:
    return None
  if jax.process_count() == 1:
    sharding = SingleDeviceSharding(jax.local_devices()[0])
  else:
    mesh = jax.sharding.Mesh(jax.devices(), (parallel.AXIS,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), like)
  for candidate in steps:
    stored = _check_shapes(checkpoints, candidate, like)
    # A field that is None may be missing: earlier versions did not have it.
    fields = abstract if isinstance(abstract, dict) else vars(abstract)
    wanted = {stored.get(k, k): v for k, v in fields.items() if v is not None or k in stored}
    arguments = ocp.args.Composite(
      state=ocp.args.StandardRestore(wanted), data=ocp.args.JsonRestore()
    )
    try:
      loaded = checkpoints.restore(candidate, args=arguments)
      state = {k: loaded['state'].get(stored.get(k, k)) for k in fields}
      return candidate, state if fields is abstract else abstract.replace(**state), loaded['data']
    except Exception as error:  # Orbax raises errors of all kinds for damaged files
      _log.warning(
        'checkpoint %d in %s cannot be read: %s', candidate, checkpoints.directory, error
      )
  raise CheckpointError(
    f'none of the checkpoints {sorted(steps)} in {checkpoints.directory} can be read: '
    'restore the folder from a backup, or delete it to train from the start'
  )


def newest(folder: pathlib.Path, like: Any) -> Any:
  """The state of the newest step in a folder, which is only read; None without a step.

  Arguments and exceptions are those of `restore`.
  """
  if not folder.is_dir():
    return None
  options = ocp.CheckpointManagerOptions(read_only=True)
  with _open(folder.resolve(), options) as saved:
    loaded = restore(saved, like)
  return None if loaded is None else loaded[1]


def _check_shapes(checkpoints: ocp.CheckpointManager, step: int, like: Any) -> dict[str, str]:
  """Raises CheckpointError for a different network; a damaged checkpoint passes, with no fields.

  Returns:
    The stored fields: name in the state -> name in the checkpoint.
  """
  try:
    stored = checkpoints.item_metadata(step)['state']
    now = like if isinstance(like, dict) else vars(like)
    names = stored.keys()
    fields = {name if name in now else FORMER.get(name, name): name for name in names}
    stored = {name: stored[former] for name, former in fields.items()}
    stored = {_path(p): tuple(a.shape) for p, a in jax.tree_util.tree_leaves_with_path(stored)}
  except Exception:  # damaged: restoring it will report that
    return {}
  wanted = {_path(p): tuple(a.shape) for p, a in jax.tree_util.tree_leaves_with_path(like)}
  if stored and stored != wanted:
    name = sorted(set(stored.items()) ^ set(wanted.items()))[0][0]
    raise CheckpointError(
      f'checkpoint {step} in {checkpoints.directory} belongs to a different network: {name} is '
      f'{stored.get(name, "missing")} there and {wanted.get(name, "missing")} here; '
      'use the settings and the version it was trained with, or another run folder'
    )
  return fields


def _path(path) -> str:
  return '/'.join(str(getattr(k, 'name', getattr(k, 'key', getattr(k, 'idx', k)))) for k in path)
