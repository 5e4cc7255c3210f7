"""What rooms that share nothing else know of colours."""

LUMA = 0.299, 0.587, 0.114  # shares of red, green and blue in ITU-R BT.601, as in Pillow's 'L'


def luma(values):
  """The brightness of colours, [..., 3] -> [..., 1], of NumPy or JAX arrays."""
  red, green, blue = (values[..., i : i + 1] for i in range(3))
  return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
