"""Imports go one way, so that a room can be read, tested and changed on its own."""

import ast
import pathlib

import oldphoto_jax

ROOT = pathlib.Path(oldphoto_jax.__file__).parent

# Rooms may import those on their left, and themselves.
RULE = (
  'allocator, colour, errors < nn, photos, degradation < metrics, data < models '
  '< training, restoring < weights, dip < library, evaluation, serving < systems < cli < __main__'
)
FLOORS = [{room.strip() for room in floor.split(',')} for floor in RULE.split('<')]


def floor(name):
  """The number of the floor on which the room of a module is."""
  room = name.split('.')[0]
  return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


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
  outside = {'data', 'photos', 'training', 'restoring', 'systems', 'weights'}
  for name, tree in modules():
    if name.startswith(('models', 'nn', 'metrics', 'degradation')):
      rooms = {other.split('.')[0] for other in imported(tree)}
      assert not rooms & outside, f'{name} imports {rooms & outside}'
      assert 'ml_collections' not in ast.dump(tree), name


def test_only_parallel_says_pmap():
  for name, tree in modules():
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert name == 'training.parallel' or 'pmap' not in used, name


def test_a_config_is_plain_data():
  for path in (ROOT.parent / 'configs').glob('*.py'):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
      names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
      names += [node.module] if isinstance(node, ast.ImportFrom) else []
      for name in names:
        assert name in ('configs', 'ml_collections', 'collections.abc'), f'{path} imports {name}'
