"""Reads PyTorch state dicts, and converts them strictly: no tensor may be left over."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from oldphoto_jax.errors import WeightsError


def load(path: str | os.PathLike, entry: str | None = None) -> dict[str, np.ndarray]:
  """The state dict in a .pth or .pt file, or the one stored under the name `entry` in it.

  Nothing in the file is executed. All tensors become float32.

  Raises:
    WeightsError: the file or `entry` is missing or unreadable, or PyTorch is not installed.
  """
  if not pathlib.Path(path).is_file():
    raise WeightsError(f'there is no file {path}')
  try:
    import torch
  except ImportError:
    raise WeightsError(
      f"{path} is a PyTorch file: install torch (pip install 'oldphoto_jax[torch]') to read it"
    ) from None
  try:
    state = torch.load(path, map_location='cpu', weights_only=True)
    state = state if entry is None else state[entry]
    return {name: value.float().numpy() for name, value in state.items()}
  except KeyError as error:
    raise WeightsError(f'{path} lacks {error}: this is not the file expected here') from error
  except Exception as error:  # damaged files raise errors of all kinds
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise WeightsError(f'{path} cannot be read as a PyTorch state dict: {reason}') from error


class Reader:
  """Converts the tensors of a state dict to our layouts, and keeps track of those that are left.

  Every method raises WeightsError for a missing key. `what` names the file in messages.
  """

  def __init__(self, state: Mapping[str, Any], what: str):
    self.state, self.what, self.taken = state, what, set()

  def __call__(self, key: str) -> np.ndarray:
    """The tensor as float32."""
    if key not in self.state:
      raise WeightsError(f'{self.what}: there is no {key!r}: this is not the file expected here')
    self.taken.add(key)
    return np.asarray(self.state[key], np.float32)

  def conv(self, key: str) -> dict[str, np.ndarray]:
    """[out, in, h, w] -> kernel [h, w, in, out], with the bias if there is one."""
    kernel = self._four(key).transpose(2, 3, 1, 0)
    return {'kernel': kernel} | self._bias(key)

  def conv_transpose(self, key: str) -> dict[str, np.ndarray]:
    """[in, out, h, w] -> kernel [h, w, in, out], flipped (see convolution.conv_transpose2d)."""
    kernel = self._four(key).transpose(2, 3, 0, 1)[::-1, ::-1]
    return {'kernel': np.ascontiguousarray(kernel)} | self._bias(key)

  def batch_norm(self, key: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Scale and bias, and the running mean and variance."""
    affine = {'scale': self(f'{key}.weight'), 'bias': self(f'{key}.bias')}
    return affine, {'mean': self(f'{key}.running_mean'), 'var': self(f'{key}.running_var')}

  def done(self, params: dict[str, Any]) -> dict[str, Any]:
    """Returns `params`, after checking that every tensor was used.

    Raises:
      WeightsError: some are left over.
    """
    left = sorted(set(self.state) - self.taken)
    if left:
      more = f' and {len(left) - 3} more' if len(left) > 3 else ''
      raise WeightsError(f'{self.what}: no place for {", ".join(left[:3])}{more}')
    return params

  def _four(self, key: str) -> np.ndarray:
    kernel = self(f'{key}.weight')
    if kernel.ndim != 4:
      raise WeightsError(f'{self.what}: {key}.weight has shape {kernel.shape}, not four axes')
    return kernel

  def _bias(self, key: str) -> dict[str, np.ndarray]:
    return {'bias': self(f'{key}.bias')} if f'{key}.bias' in self.state else {}
