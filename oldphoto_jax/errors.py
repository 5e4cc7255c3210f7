"""Errors that a user can fix, and the exit codes of the commands.

Only these errors are shortened to their message. All others are bugs or faults of the machine, and
keep their traceback.
"""

import enum
import errno
import os


class UserError(ValueError):
  """An error that the user can fix. Its message is a sentence: what is wrong and what to do."""


class ConfigError(UserError):
  """A setting that cannot work."""


class OptionError(UserError):
  """Options of a command that cannot work, on their own or together."""


class PhotoError(UserError):
  """A photo, mask or folder of them that cannot be read, written or used."""


class DiskFullError(UserError):
  """A full disk. What was done before is kept, and the same command goes on."""


def is_disk_full(error: BaseException | None) -> bool:
  """Whether an error, or one that caused it, is a full disk or an exhausted quota."""
  while error is not None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
      return True
    # Libraries in C++, such as the one that writes checkpoints, only pass the text on.
    if not isinstance(error, UserError) and os.strerror(errno.ENOSPC) in str(error):
      return True
    error = error.__cause__ or error.__context__
  return False


class WeightsError(UserError):
  """A weights file, in our or an official layout, that is missing, broken or of the wrong kind."""


class CheckpointError(UserError):
  """A checkpoint that is missing, broken or belongs to a different network."""


class ExitStatus(enum.IntEnum):
  """How a command ended."""

  OK = 0
  SOME_FAILED = 1  # some photos failed; the others are done
  NOTHING_DONE = 2
  # After SIGTERM or on a full disk (EX_TEMPFAIL), all is saved: the same command goes on.
  STOPPED = 75
  INTERRUPTED = 130  # Ctrl-C; the same command goes on
