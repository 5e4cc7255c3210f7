"""What the server takes at most, so that one photo or one visitor cannot exhaust the machine."""

import dataclasses

from oldphoto_jax.photos import images


@dataclasses.dataclass(frozen=True)
class Limits:
  """Bounds of a server.

  Attributes:
    file_bytes: of one uploaded photo.
    box_bytes: of all uploaded photos together, on disk.
    photos: in the box.
    pixels: of one photo.
    waiting: photos that wait to be restored.
    seconds: for one photo, from its start to its end.
    request_bytes: of a request that is not a photo, such as brush strokes.
    decoded_bytes: of photos that are kept in memory for zooming.
    tile_bytes: of results of the network that are kept, so that a changed mask costs little.
  """

  file_bytes: int = 500 * 2**20
  box_bytes: int = 20 * 2**30
  photos: int = 2000
  pixels: int = images.MAX_PIXELS
  waiting: int = 2000
  seconds: float = 3600
  request_bytes: int = 4 * 2**20
  decoded_bytes: int = 512 * 2**20
  tile_bytes: int = 768 * 2**20
