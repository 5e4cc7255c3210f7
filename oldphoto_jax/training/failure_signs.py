"""Signs that adversarial training fails: checkerboards in the photos, a discriminator that won."""

from collections.abc import Sequence

# Thresholds of `warnings`. Clean photos of 256x256 have a checkerboard share of 0.026 on average
# (90 % below 0.05), a checkerboard of 2 of 255 levels brings them to 0.06, one of 4 to 0.14.
CHECKERBOARD = 0.1
D_LOSS = 0.03


def warnings(lines: Sequence[dict[str, float]], steps: int = 500) -> list[str]:
  """Signs of failure in the log of a run, one sentence each; [] if there are none.

  - The loss of a discriminator (the mean of its terms on real and on generated photos) stayed below
    D_LOSS over the last `steps` steps: it has won. When it can only guess, the two GAN losses are
    far higher (0.25 and 0.69).
  - 'eval_checkerboard' above CHECKERBOARD at the newest evaluation.

  Args:
    lines: of metrics.jsonl, oldest first: training lines with 'd_real' and 'd_fake' (or any
      'd_NAME_real' and 'd_NAME_fake'), evaluation lines with 'eval_checkerboard'.
    steps: length of the window for the discriminator's loss.
  """
  found = []
  training = [line for line in lines if any(name.startswith('d_') for name in line)]
  recent = [line for line in training if line['step'] > training[-1]['step'] - steps]
  names = [name for name in (training[-1] if training else ()) if name.endswith('_real')]
  for real in names if len(recent) < len(training) else ():
    fake = real.removesuffix('_real') + '_fake'
    values = [(line[real] + line[fake]) / 2 for line in recent if real in line and fake in line]
    if values and max(values) < D_LOSS:
      which = 'the discriminator' + real.removeprefix('d').removesuffix('_real').replace('_', ' ')
      found.append(
        f'the loss of {which} has stayed below {D_LOSS} for {steps} steps: it recognises every '
        'photo and teaches nothing; lower its learning rate (d_lr) or the weight of its term'
      )
  patterns = [line['eval_checkerboard'] for line in lines if 'eval_checkerboard' in line]
  if patterns and patterns[-1] > CHECKERBOARD:
    found.append(
      f'{patterns[-1]:.0%} of the fine detail of the restored photos is a checkerboard (photos: '
      '3 %): look at the sheet; it fades with more steps, or with a smaller weight of the GAN term'
    )
  return found
