"""The recipes of docs/archives.md do what they say, with stand-ins for the clusters."""

import pathlib
import re
import runpy
import subprocess
import sys
import types

import pytest
from conftest import ROOT

from oldphoto_jax import cli
from oldphoto_jax.restoring import manifest

WORDS = ['restore', '/archive/scans', '-o', '/archive/restored', '--shard']


@pytest.fixture(scope='module')
def recipe():
  """The one block of code of a language."""
  text = (ROOT / 'docs/archives.md').read_text()

  def block(language):
    (found,) = re.findall(rf'^```{language}\n(.*?)^```', text, re.S | re.M)
    return found

  return block


def parsed(line):
  """The shard of a command line of oldphoto."""
  program, *words = line.split()
  assert program == 'oldphoto' and words[:-1] == WORDS
  return cli.parser().parse_args(words).shard


@pytest.mark.parametrize(('code', 'says'), [(0, ''), (1, ''), (75, 'requeue 8_7\n')])
def test_slurm(recipe, code, says):
  stand_ins = f'srun() {{ echo "$@"; return {code}; }}\nscontrol() {{ echo "$@"; }}\n'
  variables = {'SLURM_ARRAY_TASK_ID': '7', 'SLURM_ARRAY_JOB_ID': '8', 'PATH': '/usr/bin:/bin'}
  done = subprocess.run(
    ['bash', '-u', '-c', stand_ins + recipe('bash')],
    env=variables,
    capture_output=True,
    text=True,
    check=False,
  )
  assert (done.returncode, done.stderr) == (code, '')
  command, _, rest = done.stdout.partition('\n')
  assert parsed(command) == manifest.Shard(7, 64)
  assert rest == says
  assert '#SBATCH --array=1-64%16' in recipe('bash')


def test_kubernetes(recipe):
  yaml = pytest.importorskip('yaml')
  job = yaml.safe_load(recipe('yaml'))
  spec = job['spec']
  assert (job['kind'], spec['completionMode'], spec['completions']) == ('Job', 'Indexed', 64)
  (container,) = spec['template']['spec']['containers']
  (script,) = container['args']
  shards = set()
  for index in (0, 63):
    script_of = script.replace('exec oldphoto', 'echo oldphoto')
    done = subprocess.run(
      [*container['command'], script_of],
      env={'JOB_COMPLETION_INDEX': str(index)},
      capture_output=True,
      text=True,
      check=True,
    )
    shards.add(parsed(done.stdout))
  assert shards == {manifest.Shard(1, 64), manifest.Shard(64, 64)}


@pytest.mark.parametrize('code', [0, 1, 75])
def test_ray_data(recipe, tmp_path, monkeypatch, code):
  class Rows(list):
    def map(self, function, num_cpus, num_gpus):
      return Rows(function(row) for row in self)

    def to_pandas(self):
      return self

  def rows(count, override_num_blocks):
    assert override_num_blocks == count
    return Rows({'id': i} for i in range(count))

  commands = []

  def call(words, check):
    commands.append(' '.join(words))
    return types.SimpleNamespace(returncode=code)

  monkeypatch.setitem(
    sys.modules, 'ray', types.SimpleNamespace(data=types.SimpleNamespace(range=rows))
  )
  monkeypatch.setattr(subprocess, 'run', call)
  path = pathlib.Path(tmp_path / 'program.py')
  path.write_text(recipe('python'))
  if code == 75:
    with pytest.raises(RuntimeError, match='shard 1/64 ended with status 75'):
      runpy.run_path(str(path))
    return
  runpy.run_path(str(path))
  assert [parsed(command) for command in commands] == [
    manifest.Shard(number, 64) for number in range(1, 65)
  ]
