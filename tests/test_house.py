"""Imports go one way, so that a room can be read, tested and changed on its own."""

import ast
import pathlib

import oldphoto_jax

ROOT = pathlib.Path(oldphoto_jax.__file__).parent

# A module may import those of a lower number only.
FLOORS = (
  {'cpu_convolution', 'errors', 'averaging', 'parameters'},
  {'convolution', 'torch_state', 'features'},
  {
    'layers',
    'losses',
    'prefill',
    'print_scores',
    'metrics',
    'niqe',
    'images',
    'perceptual',
    'failure_signs',
    'mask_scores',
    'degradation.photographic',
    'degradation.drawing',
    'tiles',
  },
  {
    'accumulation',
    'classifiers',
    'degradation.recipes',
    'degradation.distractors',
    'degradation.artefact',
    'parallel',
    'sheets',
    'shapes',
    'folder',
    'page',
    'masks',
    'data.sources',
  },
  {
    'filling',
    'toning',
    'layerwise',
    'degradation.ageing',
    'degradation.collected',
    'degradation.scratches',
    'degradation.stains',
    'degradation.tears',
    'data.pipeline',
    'data.prints',
    'data.voc',
    'data',
    'checkpoints',
  },
  {
    'models',
    'degradation.damage',
    'degradation.cracks',
    'degradation.patches',
    'degradation.names',
  },
  {'engine', 'degradation.worn', 'finding'},
  {'restore', 'detect', 'degrade_files'},
  {'train', 'weights'},
  {'bopbtl', 'official_gans', 'fit', 'benchmark', 'compile_report', 'speed', 'library'},
  {'fit_time', 'runs', 'systems.build'},
  {'fit_files'},
  {'systems'},
  {'cli'},
  {'__main__'},
)


def floor(name):
  """Of the longest entry that `name` is or lies below."""
  parts = name.split('.')
  for n in range(len(parts), 0, -1):
    for i, rooms in enumerate(FLOORS):
      if '.'.join(parts[:n]) in rooms:
        return i
  raise AssertionError(f'{name} has no floor yet: add it to FLOORS')


def modules():
  for path in sorted(ROOT.rglob('*.py')):
    name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    if name != '__init__':
      yield name.removesuffix('.__init__'), ast.parse(path.read_text())


def imported(tree):
  """Our modules that a file imports, as dotted names below oldphoto_jax."""
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('oldphoto_jax'):
      base = node.module.removeprefix('oldphoto_jax').strip('.')
      for alias in node.names:
        dotted = f'{base}.{alias.name}'.strip('.')
        is_module = (ROOT / dotted.replace('.', '/')).with_suffix('.py').exists()
        is_module = is_module or (ROOT / dotted.replace('.', '/')).is_dir()
        yield dotted if is_module else base


def test_imports_go_one_way():
  for name, tree in modules():
    for other in imported(tree):
      same_room = name.split('.')[0] == other.split('.')[0]
      assert floor(other) < floor(name) or same_room, f'{name} imports {other}'


def test_models_know_no_files_no_loop_and_no_config():
  outside = {'data', 'train', 'checkpoints', 'parallel', 'images', 'systems', 'weights', 'restore'}
  for name, tree in modules():
    if name.startswith(('models', 'layers', 'losses', 'metrics', 'degradation')):
      rooms = {other.split('.')[0] for other in imported(tree)}
      assert not rooms & outside, f'{name} imports {rooms & outside}'
      assert 'ml_collections' not in ast.dump(tree), name


def test_only_parallel_says_pmap():
  for name, tree in modules():
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert name == 'parallel' or 'pmap' not in used, name
