"""docs/adding_a_system.md is done as it says: a system is added, trained, released and used."""

import re
import runpy
import sys

import numpy as np
import pytest
from conftest import ROOT

import launch
import oldphoto_jax
from oldphoto_jax import models, systems
from oldphoto_jax.weights import file

GUIDE = ROOT / 'docs' / 'adding_a_system.md'


@pytest.fixture
def guide(tmp_path, monkeypatch):
  """The files of the guide, written below a folder where Python finds the first two."""
  blocks = re.findall(r'^```python\n# (\S+)\n(.*?)^```', GUIDE.read_text(), re.S | re.M)
  for name, text in blocks:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
  for package in (models, systems):
    folder = tmp_path / package.__name__.replace('.', '/')
    monkeypatch.setattr(package, '__path__', [*package.__path__, str(folder)])
  yield tmp_path, [name for name, _ in blocks]
  for package in (models, systems):
    monkeypatch.delattr(package, 'tint', raising=False)
    monkeypatch.delitem(sys.modules, f'{package.__name__}.tint', raising=False)


def test_a_system_is_added_by_three_files_and_two_lines(guide, monkeypatch):
  folder, names = guide
  assert names == [
    'oldphoto_jax/models/tint.py',
    'oldphoto_jax/systems/tint.py',
    'configs/tint.py',
  ]
  from oldphoto_jax.models import tint as model
  from oldphoto_jax.systems import tint

  monkeypatch.setitem(launch.SYSTEMS, tint.SYSTEM.name, tint.SYSTEM)
  monkeypatch.setitem(file.NETWORKS, 'tint', model.networks)
  config = runpy.run_path(str(folder / 'configs' / 'tint.py'))['get_config']('tiny').unlock()
  config.workdir = str(folder / 'run')
  system = launch.SYSTEMS[config.system]
  system.check(config)
  system.modes['run'](config)

  restored = oldphoto_jax.load(folder / 'run').restore(photo := np.full((20, 30, 3), 90, np.uint8))
  assert restored.shape == photo.shape and (restored != photo).any()
