"""Devices, processes and hosts. The only file that uses pmap.

State is replicated without a leading device axis: pmap maps only the batch (`in_axes=None` and
`out_axes=None` for the state), so a checkpoint never has the shape of the machine, and the
compiled program moves a third less memory than with stacked state.

Random keys: every example has a number `id`, its position in the global stream of the input
pipeline, and its key is `fold_in(key, id)`. Two devices thus draw different noise, and the noise
of an example does not depend on how many devices or hosts there are.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from oldphoto_jax.data import Batches
from oldphoto_jax.errors import ConfigError, OptionError
from oldphoto_jax.nn.averaging import AXIS

Batch = dict[str, Any]
# Seconds without a sign of life after which JAX ends all processes of a run; its default is 100.
HEARTBEAT = 50
Step = Any  # a compiled function of (state, constants, batch, key), which can also be lowered


def initialize(
  multihost: bool,
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> None:
  """Joins this process to the others of a pod. Call before anything touches a device.

  Args:
    multihost: whether there are others. JAX finds them on TPU pods, under Slurm, Open MPI and
      Kubernetes. On a plain machine it cannot, and raises.
    coordinator: HOST:PORT of process 0, if there is no cluster environment; implies `multihost`.
    num_processes, process_id: number of processes, and number of this one, from 0.

  Raises:
    OptionError: only some of the last three are given, or `process_id` is out of range.
  """
  given = [coordinator is not None, num_processes is not None, process_id is not None]
  if any(given) and not all(given):
    raise OptionError(
      '--coordinator, --num_processes and --process_id belong together: set all three'
    )
  if coordinator is None:
    if multihost:
      jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT)
    return
  if not 0 <= process_id < num_processes:
    raise OptionError(f'--process_id is {process_id}: give a number from 0 to {num_processes - 1}')
  jax.distributed.initialize(
    coordinator, num_processes, process_id, heartbeat_timeout_seconds=HEARTBEAT
  )


def example_keys(key: jax.Array, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Two keys [B] for each example, one for its damage and one for the model, from its `id` [B]."""
  keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(ids)
  return keys[:, 0], keys[:, 1]


def train_step(
  prepare: Callable[[Batch, jax.Array], Batch],
  step: Step,
  devices: Sequence[jax.Device] | None = None,
) -> Step:
  """pmaps the preparation (degradation) of a batch, followed by `step`.

  Args:
    prepare: (uint8 batch, keys [b]) -> float batch. Runs on the device, inside the step.
    step: (state, constants, batch, keys [b]) -> (state, metrics), as one device sees them. It
      averages over averaging.AXIS itself.
    devices: all by default.

  Returns:
    (state, constants, sharded batch, key) -> (state, metrics). The state's buffers are donated.
  """

  def device_step(state, constants, batch, key):
    degradation_keys, model_keys = example_keys(key, batch['id'])
    return step(state, constants, prepare(batch, degradation_keys), model_keys)

  return jax.pmap(
    device_step,
    axis_name=AXIS,
    in_axes=(None, None, 0, None),
    out_axes=None,
    donate_argnums=0,
    devices=devices,
  )


def eval_step(
  prepare: Callable[[Batch, jax.Array], Batch],
  step: Step,
  devices: Sequence[jax.Device] | None = None,
) -> Step:
  """pmaps an evaluation step: (state, constants, sharded batch, key) -> (sums, count, images).

  `step` returns (scores {name: [b]}, images {name: [b, H, W, 3]}). Scores are summed over all valid
  examples of all devices. Images stay on their devices, [local devices, b, ...].
  """

  def device_step(state, constants, batch, key):
    degradation_keys, _ = example_keys(key, batch['id'])
    scores, images = step(state, constants, prepare(batch, degradation_keys))
    valid = batch['valid']
    # `where` instead of a product: the score of a padding example may be infinite.
    sums = {name: jax.numpy.where(valid, value, 0).sum() for name, value in scores.items()}
    sums, count = jax.lax.psum((sums, valid.sum()), AXIS)
    return sums, count, images

  return jax.pmap(
    device_step,
    axis_name=AXIS,
    in_axes=(None, None, 0, None),
    out_axes=(None, None, 0),
    devices=devices,
  )


def map_devices(
  function: Callable[..., Any],
  devices: Sequence[jax.Device] | None = None,
  donate_argnums: int | Sequence[int] = (),
) -> Callable[..., Any]:
  """`function` once per device, over the leading axis of every argument. Nothing is shared.

  For work that devices do independently, such as fitting one network per photo.
  """
  return jax.pmap(function, devices=devices, donate_argnums=donate_argnums)


def shard(batch: Batch) -> Batch:
  """Host batch [B, ...] -> [local devices, B / local devices, ...].

  Raises:
    ConfigError: the batch does not divide over this host's devices.
  """
  n = jax.local_device_count()
  size = len(batch['id'])
  if size % n:
    raise ConfigError(
      f"a host's batch of {size} does not divide over its {n} devices: set a batch size that is a "
      f'multiple of {jax.device_count()}'
    )
  return jax.tree.map(lambda x: np.reshape(x, (n, size // n, *x.shape[1:])), batch)


def prefetch(batches: Batches, size: int = 2) -> Iterator[tuple[Batch, Batch, dict]]:
  """Sends batches to the devices ahead of their use.

  Yields:
    (the batch on the devices, the host's batch, the state of `batches` after it).
  """
  queue = []
  sharding = _sharding(jax.sharding.PartitionSpec(AXIS))
  while True:
    while len(queue) < size:
      batch = next(batches)
      queue.append((jax.device_put(shard(batch), sharding), batch, batches.get_state()))
    yield queue.pop(0)


def multiple(batch_size: int) -> int:
  """The next multiple of the number of devices, for evaluation, which pads its last batch."""
  return -(-batch_size // jax.device_count()) * jax.device_count()


def replicate(tree: Any, devices: Sequence[jax.Device] | None = None) -> Any:
  """Copies every array to each device (this host's by default), in the layout that pmap returns.

  Without it, pmap would send the arrays at every call, and compile the step a second time when its
  first output comes back as input. The arrays are always copied: a state is donated, and other
  holders of its arrays must not see them change.
  """
  # With several processes, Orbax restores arrays that span all hosts; one copy is enough here.
  tree = jax.tree.map(
    lambda x: x if getattr(x, 'is_fully_addressable', True) else x.addressable_data(0), tree
  )
  return jax.device_put(tree, _sharding(jax.sharding.PartitionSpec(), devices), may_alias=False)


def _sharding(
  spec: jax.sharding.PartitionSpec, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.NamedSharding:
  mesh = jax.sharding.Mesh(jax.local_devices() if devices is None else devices, (AXIS,))
  return jax.sharding.NamedSharding(mesh, spec)


def to_global(state: Any) -> Any:
  """The state as Orbax can save it: with several processes, pmap's output is local to its host."""
  if jax.process_count() == 1:
    return state
  return jax.tree.map(ocp.utils.fully_replicated_host_local_array_to_global_array, state)


def stop_requested(requested: bool, step: int) -> bool:
  """Whether to save and stop after `step`. All processes of a pod give the same answer.

  Args:
    requested: whether this process got SIGTERM.
    step: the step just taken, the same on all processes.
  """
  if jax.process_count() == 1:
    return requested
  return multihost_utils.reached_preemption_sync_point(step)


def lost_process(error: Exception) -> bool:
  """Whether an error that JAX raised says that another process of the run has ended.

  Where JAX notices only that signs of life are missing, it raises nothing, but ends this process
  after HEARTBEAT seconds, with a message.
  """
  signs = ('Gloo', 'UNAVAILABLE', 'heartbeat', 'coordination service')
  return any(sign in str(error) for sign in signs) and jax.process_count() > 1


def is_main() -> bool:
  """Whether this process writes logs, images and weights."""
  return jax.process_index() == 0
