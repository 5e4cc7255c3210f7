"""What was done to a photo, noted in its XMP packet: the IPTC digital source type, and history.

The form is that of the XMP specification (ISO 16684-1, and part 2 for xmpMM:History) and of the
IPTC Photo Metadata Standard. All else in a packet stays. No time is noted, so that the same command
writes the same file; the report of the job has it.
"""

from typing import NamedTuple
from xml.dom import minidom
from xml.parsers import expat

# Terms of http://cv.iptc.org/newscodes/digitalsourcetype.
_TERMS = 'http://cv.iptc.org/newscodes/digitalsourcetype/'
ENHANCED = f'{_TERMS}algorithmicallyEnhanced'  # corrected by an algorithm, such as denoised
FILLED = f'{_TERMS}compositeWithTrainedAlgorithmicMedia'  # such as inpainted by a trained network

JPEG_MOST = 65_000  # bytes of a packet: 65,502 fit into a JPEG's segment

_RDF = 'http://www.w3.org/1999/02/22-rdf-syntax-ns#'
_MM = 'http://ns.adobe.com/xap/1.0/mm/'
_EVENT = 'http://ns.adobe.com/xap/1.0/sType/ResourceEvent#'
_IPTC = 'http://iptc.org/std/Iptc4xmpExt/2008-02-29/'
_EMPTY = (
  b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>'
  b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="' + _RDF.encode() + b'">'
  b'<rdf:Description rdf:about=""/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


class Event(NamedTuple):
  """A change to a photo.

  Attributes:
    source: ENHANCED or FILLED.
    software: name and version.
    parameters: a text with the weights and settings.
  """

  source: str
  software: str
  parameters: str


def add(xmp: bytes | None, event: Event) -> bytes | None:
  """An XMP packet with an event added to its history, and the digital source type of the result.

  A former digital source type, such as that of a scanned print, is named in the event.

  Args:
    xmp: the packet of the original; None: it has none.
    event: what was done.

  Returns:
    The packet, or None if the one given is damaged, so that nothing can be added to it.
  """
  try:
    packet = minidom.parseString(xmp or _EMPTY)
  except (expat.ExpatError, ValueError, LookupError):  # LookupError: of an unknown encoding
    return None
  roots = packet.getElementsByTagNameNS(_RDF, 'RDF')
  if packet.doctype is not None or len(roots) != 1 or not roots[0].prefix:
    return None
  (rdf,) = roots
  described = [node for node in rdf.childNodes if _is(node, _RDF, 'Description')]
  if not described:
    described = [rdf.appendChild(packet.createElementNS(_RDF, f'{rdf.prefix}:Description'))]
    described[0].setAttributeNS(_RDF, f'{rdf.prefix}:about', '')

  former = [_pop(node, _IPTC, 'DigitalSourceType') for node in described]
  source = _child(packet, described[0], _IPTC, 'Iptc4xmpExt', 'DigitalSourceType')
  source.appendChild(packet.createTextNode(event.source))
  told = ''.join(f'; before: {value}' for value in former if value and value != event.source)

  histories = [(d, h) for d in described for h in d.childNodes if _is(h, _MM, 'History')]
  lists = [s for _, h in histories for s in h.childNodes if _is(s, _RDF, 'Seq')]
  if not lists:
    for node, history in histories:  # one without a list is empty or broken
      node.removeChild(history)
    history = _child(packet, described[0], _MM, 'xmpMM', 'History')
    lists = [history.appendChild(packet.createElementNS(_RDF, f'{rdf.prefix}:Seq'))]
  item = lists[0].appendChild(packet.createElementNS(_RDF, f'{rdf.prefix}:li'))
  item.setAttribute('xmlns:stEvt', _EVENT)
  fields = {
    'action': 'edited',
    'softwareAgent': event.software,
    'parameters': event.parameters + told,
  }
  for name, value in fields.items():
    item.setAttributeNS(_EVENT, f'stEvt:{name}', value)
  # Without the XML declaration that toxml() puts in front: a packet has none.
  return ''.join(node.toxml() for node in packet.childNodes).encode()


def _is(node: minidom.Node, space: str, name: str) -> bool:
  return (node.namespaceURI, node.localName) == (space, name)


def _child(packet, parent, space: str, prefix: str, name: str) -> minidom.Element:
  """A new element, which declares its prefix itself: the parent may not, or otherwise."""
  child = parent.appendChild(packet.createElementNS(space, f'{prefix}:{name}'))
  child.setAttribute(f'xmlns:{prefix}', space)
  return child


def _pop(described: minidom.Element, space: str, name: str) -> str:
  """Removes a simple property in either of its forms, and returns its value, or ''."""
  value = described.getAttributeNS(space, name)
  if value:
    described.removeAttributeNS(space, name)
  for child in list(described.childNodes):
    if _is(child, space, name):
      value = (
        child.firstChild.nodeValue if child.firstChild else child.getAttributeNS(_RDF, 'resource')
      )
      described.removeChild(child)
  return (value or '').strip()
