"""What is noted in a photo's XMP packet, as other programs read it."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from oldphoto_jax.photos import images, provenance

ENDINGS = ('.jpg', '.png', '.tif', '.webp')
EVENT = provenance.Event(provenance.FILLED, 'oldphoto_jax 9', 'weights "w" <0f>; strength 1')

# As Adobe Lightroom and exiftool write them: attributes and elements, with a history.
LIGHTROOM = b"""<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core 7.0">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"
    xmlns:stEvt="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"
    xmlns:ext="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" dc:format="image/tiff"
    ext:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/print">
   <dc:description><rdf:Alt><rdf:li xml:lang="x-default">Gro\xc3\x9fmutter &amp; Hund</rdf:li>
   </rdf:Alt></dc:description>
   <xmpMM:History><rdf:Seq><rdf:li stEvt:action="saved" stEvt:softwareAgent="Lightroom"/></rdf:Seq>
   </xmpMM:History>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>

<?xpacket end="w"?>"""
ELEMENT = LIGHTROOM.replace(
  b'ext:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/print">',
  b'><ext:DigitalSourceType>http://cv.iptc.org/newscodes/digitalsourcetype/print'
  b'</ext:DigitalSourceType>',
)


@pytest.fixture(scope='module')
def seen(tmp_path_factory):
  """What exiftool reads from a photo of each format with each packet, by its name."""
  if shutil.which('exiftool') is None:
    pytest.skip('exiftool is not installed')
  folder = tmp_path_factory.mktemp('seen')
  for kind, packet in (('none', None), ('attribute', LIGHTROOM), ('element', ELEMENT)):
    for ending in ENDINGS:
      photo = images.Photo(np.full((8, 8, 3), 90, np.uint8), xmp=provenance.add(packet, EVENT))
      images.write(photo, folder / f'{kind}{ending}')
  words = ['exiftool', '-j', '-struct', '-n', '-G1', '-FileName', '-XMP:all', str(folder)]
  found = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
  return {entry['System:FileName']: entry for entry in found}


@pytest.mark.parametrize('ending', ENDINGS)
@pytest.mark.parametrize('kind', ['none', 'attribute', 'element'])
def test_other_programs_read_it_and_the_rest_of_the_packet(seen, ending, kind):
  found = seen[f'{kind}{ending}']
  assert found['XMP-iptcExt:DigitalSourceType'] == provenance.FILLED
  *before, event = found['XMP-xmpMM:History']
  assert event['Action'] == 'edited' and event['SoftwareAgent'] == EVENT.software
  assert event['Parameters'].startswith(EVENT.parameters)
  if kind == 'none':
    assert not before
  else:
    assert before == [{'Action': 'saved', 'SoftwareAgent': 'Lightroom'}]
    assert event['Parameters'].endswith(
      '; before: http://cv.iptc.org/newscodes/digitalsourcetype/print'
    )
    assert found['XMP-dc:Description'] == 'Großmutter & Hund'
    assert found['XMP-dc:Format'] == 'image/tiff'


def test_a_second_restoration_is_a_second_event():
  once = provenance.add(LIGHTROOM, EVENT)
  twice = provenance.add(once, EVENT._replace(source=provenance.ENHANCED))
  assert twice.count(b'<Iptc4xmpExt:DigitalSourceType') == 1
  assert len(re.findall(rb'<rdf:li [^>]*stEvt:action', twice)) == 3
  assert provenance.add(LIGHTROOM, EVENT) == once  # no time, no random name


@pytest.mark.parametrize(
  'packet',
  [
    b'',
    b'\0\xff',
    LIGHTROOM[:500],
    LIGHTROOM.replace(b'rdf:RDF', b'rdf:Bag'),
    b'<!DOCTYPE x [<!ENTITY a "b">]>' + LIGHTROOM.split(b'?>', 1)[1],
    LIGHTROOM.replace(
      b'<?xpacket begin', b'<?xml version="1.0" encoding="klingon"?><?xpacket begin'
    ),
  ],
)
def test_a_damaged_packet_is_left_alone(packet):
  if packet:
    assert provenance.add(packet, EVENT) is None
  else:
    assert provenance.add(packet, EVENT) == provenance.add(None, EVENT)


def test_packets_of_other_encodings_are_read():
  text = LIGHTROOM.decode().replace('\ufeff', '', 1)
  for encoding in ('utf-16', 'utf-8'):
    told = provenance.add(text.encode(encoding), EVENT)
    assert 'Großmutter' in told.decode() and provenance.FILLED in told.decode()
