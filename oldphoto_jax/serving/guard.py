"""Whom the server answers, and what it tells the browser to forbid.

A page of the open web must not reach the photos. It could try by a name that it makes point to this
machine (DNS rebinding): `Host` is checked. It could send its own requests here: `Origin` and
`Sec-Fetch-Site` are checked, and what changes something needs a header that other pages cannot
set without asking. Other machines reach the server only if it was told so, and need a token.
"""

import dataclasses
import hmac
import http.cookies
import urllib.parse

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = 'x-oldphoto'  # on each request that changes something
POLICY = {
  'content-security-policy': "default-src 'none'; script-src 'self'; style-src 'self'; "
  "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
  "frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'permissions-policy': 'camera=(), geolocation=(), microphone=()',
  'cache-control': 'no-store',  # photos do not stay in the browser's cache
}


@dataclasses.dataclass(frozen=True)
class Guard:
  """The application behind checks of each request.

  Attributes:
    app: answers the requests that pass.
    hosts: values of `Host` that are this server, such as 127.0.0.1:8765. None: any, with a token.
    token: must come with each request, in the address once and as a cookie from then on. None: not
      needed, as on one's own machine.
    request_bytes: of a body at most; `photo_bytes` of one that is a photo.
    photo_bytes: see `request_bytes`.
  """

  app: ASGIApp
  hosts: frozenset[str] | None
  token: str | None
  request_bytes: int
  photo_bytes: int

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    if scope['type'] != 'http':
      if scope['type'] == 'lifespan':
        await self.app(scope, receive, send)
      return  # no web sockets

    async def send_safely(message: Message) -> None:
      if message['type'] == 'http.response.start':
        headers = MutableHeaders(scope=message)
        for name, value in POLICY.items():
          headers[name] = value
      await send(message)

    refused = self.refusal(scope)
    await (refused or self.app)(scope, receive, send_safely)

  def refusal(self, scope: Scope) -> Response | None:
    """The answer to a request that does not pass; None: it passes."""
    headers = Headers(scope=scope)
    host = headers.get('host', '').lower()
    if self.hosts is not None and host not in self.hosts:
      return _no(421, 'This address is not that of the page; open the one the command has printed.')
    reading = scope['method'] in ('GET', 'HEAD')
    origin = headers.get('origin')
    opening = reading and scope['path'] == '/'  # a link to the page may be anywhere
    site = headers.get('sec-fetch-site', 'none')
    if origin is not None and origin.lower() not in (f'http://{host}', f'https://{host}'):
      return _no(403, 'Requests from other pages are not answered.')
    if site not in ('same-origin', 'none') and not opening:
      return _no(403, 'Requests from other pages are not answered.')
    if not reading and HEADER not in headers:
      return _no(403, 'Requests from other pages are not answered.')
    if self.token is not None and (refused := self._unknown(scope, headers, opening)):
      return refused
    size = headers.get('content-length', '0')
    most = self.photo_bytes if scope['path'] == '/api/photos' else self.request_bytes
    if not size.isascii() or not size.isdigit() or int(size) > most:
      return _no(413, f'The file is larger than the limit of {most // 2**20} MB.')
    return None

  def _unknown(self, scope: Scope, headers: Headers, opening: bool) -> Response | None:
    assert self.token is not None
    cookie = f'oldphoto-{headers["host"].rpartition(":")[2]}'  # cookies are shared by all ports
    jar = http.cookies.SimpleCookie()
    try:
      jar.load(headers.get('cookie', ''))
    except http.cookies.CookieError:
      jar.clear()
    if cookie in jar and _equal(jar[cookie].value, self.token):
      return None
    given = urllib.parse.parse_qs(scope['query_string'].decode('latin-1')).get('token', [''])[0]
    if opening and _equal(given, self.token):
      answer = RedirectResponse('/', 303)  # away from the address that holds the token
      answer.set_cookie(cookie, self.token, httponly=True, samesite='strict')
      return answer
    return _no(403, 'Open the whole address that the command has printed, with its token.')


def _equal(a: str, b: str) -> bool:
  return hmac.compare_digest(a.encode(), b.encode())


def _no(status: int, sentence: str) -> Response:
  return PlainTextResponse(sentence, status)
