"""The `oldphoto` command: one module per verb, and one for the verbs that import.

Modules that need JAX, NumPy or Pillow are imported only when a verb runs, so that --help is fast.
"""

from oldphoto_jax.cli.main import main, parser

__all__ = ['main', 'parser']
