"""What a user can mend, each told in one sentence, and the exit codes of the commands.

Only these are shortened to their sentence. Everything else is a bug, or the machine's, and keeps
its traceback.
"""

import enum


class UserError(ValueError):
  """Something that the user can mend. Its text is a sentence: what is wrong and what to do."""


class ConfigError(UserError):
  """A setting that cannot work."""


class OptionError(UserError):
  """Options of a command that cannot work, alone or together."""


class PhotoError(UserError):
  """A photo, mask or folder of them that cannot be read, written or used."""


class WeightsError(UserError):
  """A file of weights, of ours or in an official layout, that is missing, broken or another's."""


class CheckpointError(UserError):
  """A checkpoint that is missing, broken or belongs to a different network."""


class ExitStatus(enum.IntEnum):
  """How a command ended."""

  OK = 0
  SOME_FAILED = 1  # some photos failed; the others are done
  NOTHING_DONE = 2
  STOPPED = 75  # after SIGTERM (EX_TEMPFAIL), with everything saved: the same command goes on
  INTERRUPTED = 130  # Ctrl-C; the same command goes on
