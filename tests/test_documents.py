"""What the documents say can be typed: commands, settings, options, targets, files, links exist."""

import ast
import inspect
import json
import pathlib
import re
import shlex

import pytest
from absl import flags
from ml_collections import config_flags

import launch
from oldphoto_jax import cli, library

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(
  path
  for path in [
    *ROOT.glob('*.md'),
    *ROOT.glob('docs/*.md'),
    *ROOT.glob('benchmarks/**/*.md'),
    *ROOT.glob('oldphoto_jax/**/*.md'),
  ]
)
LAUNCH_FLAGS = [flag.name for flag in flags.FLAGS.flags_by_module_dict()[launch.__name__]]


def commands(text):
  """Commands of fenced blocks and of inline code, as lists of words."""
  fenced = re.findall(r'^```[a-z]*\n(.*?)^```', text, re.S | re.M)
  inline = re.findall(r'`([^`]+)`', re.sub(r'^```.*?^```', '', text, flags=re.S | re.M))
  lines = []
  for block in fenced:
    lines += block.replace('\\\n', ' ').splitlines()
  lines += [' '.join(code.split()) for code in inline]
  for line in lines:
    line = line.partition('  #')[0].strip().removeprefix('.venv/bin/')
    if line.count('"') % 2:  # the end of a command for another machine
      line = line.rstrip('"')
    for start in (
      'python launch.py --',
      'python -m benchmarks.',
      'launch.py --',
      'python benchmarks/',
      'oldphoto ',
      'make ',
    ):
      if line.startswith(start):
        yield shlex.split(line.removeprefix('python '))
        break


def said(program):
  """The words of every command of a program, after its name."""
  found = []
  for path in DOCUMENTS:
    for words in commands(path.read_text()):
      if words[0] == '-m':
        words = words[1:]
      if words[0] == program or (program == 'benchmarks' and words[0].startswith('benchmarks/')):
        found.append(pytest.param(words, id=f'{path.relative_to(ROOT)}: {" ".join(words)}'[:120]))
  return found


def parse(words, monkeypatch):
  """The config of a launch.py command line."""
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr('sys.argv', ['launch.py', *words])  # where config_flags looks for settings
  values = flags.FlagValues()
  config = config_flags.DEFINE_config_file('config', flag_values=values)
  for name in LAUNCH_FLAGS:
    if name != 'config':
      values[name] = flags.FLAGS[name]
  left = values(['launch.py', *words])
  assert left == ['launch.py'], f'unknown arguments {left[1:]}'
  return config.value


def test_a_wrong_command_would_be_noticed(monkeypatch):
  text = '`python launch.py --config=configs/vae.py:cpu\n--config.vae_y.setps=3`'
  (words,) = commands(text)
  with pytest.raises(AttributeError, match='setps'):
    parse(words[1:], monkeypatch)


@pytest.mark.parametrize('words', said('launch.py') + said('benchmarks.torch_reference.compare'))
def test_settings_of_launch_exist(words, monkeypatch):
  given = [w for w in words[1:] if not w.endswith('...') or '=' in w]
  if not any(w.startswith('--config=') for w in given):
    given.insert(0, '--config=configs/vae.py')  # the sentence around it says which
  parse(given, monkeypatch)


@pytest.mark.parametrize('words', said('oldphoto'))
def test_options_of_oldphoto_exist(words):
  if len(words) > 2:  # else only its name is mentioned
    assert cli.parser().parse_args(words[1:]).run


@pytest.mark.parametrize('words', said('benchmarks'))
def test_benchmarks_exist(words):
  assert (ROOT / words[0]).is_file()


@pytest.mark.parametrize('words', said('make'))
def test_targets_of_make_exist(words):
  assert re.search(rf'^{words[1]}:', (ROOT / 'Makefile').read_text(), re.M)


def named(path):
  return str(path.relative_to(ROOT))


def blocks(path):
  """The Python in a document, by block; of a notebook, by cell."""
  if path.suffix == '.ipynb':
    cells = json.loads(path.read_text())['cells']
    return [''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code']
  return re.findall(r'^```python\n(.*?)^```', path.read_text(), re.S | re.M)


@pytest.mark.parametrize('path', [*DOCUMENTS, *ROOT.glob('docs/*.ipynb')], ids=named)
def test_python_takes_these_arguments(path):
  restore = inspect.signature(library.ArrayRestorer.restore)
  for block in blocks(path):
    for node in ast.walk(ast.parse(block)):
      if isinstance(node, ast.Call) and ast.unparse(node.func) == 'restorer.restore':
        restore.bind('self', *node.args, **{k.arg: k.value for k in node.keywords})


@pytest.mark.parametrize('path', DOCUMENTS, ids=named)
def test_files_in_the_text_exist(path):
  if path.name == 'CHANGELOG.md':  # which also has the former names
    return
  text = re.sub(r'^```.*?^```', '', path.read_text(), flags=re.S | re.M)
  for name in re.findall(r'`((?:[a-z_]+/)+\w+\.(?:py|md|ipynb))\b', text):
    assert any((place / name).is_file() for place in (ROOT, ROOT / 'oldphoto_jax')), name


def headings(text):
  return {
    re.sub(r'[^\w -]', '', line.lstrip('# ').lower()).replace(' ', '-')
    for line in text.splitlines()
    if line.startswith('#')
  }


@pytest.mark.parametrize('path', DOCUMENTS, ids=named)
def test_links_lead_somewhere(path):
  for target in re.findall(r'\]\(([^)\s]+)\)', path.read_text()):
    if target.startswith('http'):
      continue
    name, _, heading = target.partition('#')
    file = path.parent / name if name else path
    assert file.exists(), target
    assert not heading or heading in headings(file.read_text()), target
