"""The notebook runs, on the sample photos and the weights of the package."""

import json

import numpy as np
from conftest import ROOT

NOTEBOOK = ROOT / 'docs' / 'restore.ipynb'


def cells():
  notebook = json.loads(NOTEBOOK.read_text())
  assert notebook['nbformat'] == 4
  for cell in notebook['cells']:
    assert not cell.get('outputs'), 'clear the outputs before committing'
    if cell['cell_type'] == 'code':
      yield ''.join(cell['source'])


def test_the_notebook_restores_and_fills():
  names = {}
  for cell in cells():
    exec(compile(cell, NOTEBOOK.name, 'exec'), names)
  error = lambda photo: np.abs(photo.astype(float) - names['clean']).mean()
  assert error(names['restored']) < error(names['old'])
  inside = names['mask'][..., None]
  assert error(np.where(inside, names['filled'], names['clean'])) < error(names['torn'])


def test_its_cells_are_few_and_the_first_is_short():
  code = list(cells())
  assert len(code) <= 6 and len(code[0].splitlines()) <= 3
  for cell in code:
    compile(cell, NOTEBOOK.name, 'exec')
