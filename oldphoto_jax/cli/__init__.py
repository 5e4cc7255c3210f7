"""The `oldphoto` command: one module for one or two verbs.

Modules that need JAX are imported when a verb runs, so that --help does not wait for it.
"""

from oldphoto_jax.cli.main import main, parser

__all__ = ['main', 'parser']
