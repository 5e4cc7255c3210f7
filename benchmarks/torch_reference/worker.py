"""PyTorch's half of the pair of processes: makes a program and times calls of it when asked."""

import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch

from benchmarks.torch_reference.steps import Job, Program


def serve(
  connection: Connection, threads: int, device: str, make: Callable[[Job], Program], job: Job
) -> None:
  """Sends the program's outputs, then answers ('train' or 'restore', calls, bfloat16) by seconds.

  With bfloat16 the calls run under autocast. None ends it. `device` is PyTorch's name.
  """
  torch.set_num_threads(threads)
  torch.set_default_device(device)
  torch.manual_seed(0)
  program = make(job)
  connection.send({name: value.cpu().numpy() for name, value in program.outputs().items()})
  while (asked := connection.recv()) is not None:
    what, calls, bfloat16 = asked
    call = program.train if what == 'train' else program.restore
    start = time.perf_counter()
    with torch.autocast(device, dtype=torch.bfloat16, enabled=bfloat16):
      for _ in range(calls):
        call()
    if device == 'cuda':
      torch.cuda.synchronize()
    connection.send(time.perf_counter() - start)
