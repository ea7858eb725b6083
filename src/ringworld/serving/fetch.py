"""Addresses that requests name, of hosts that are allowed: what is there, and nothing of this network.

Who asks chooses an address, and whoever answers there may send it on. So each host, also of a redirect, must
be one that is allowed; all that its name stands for must be public; and the connection goes to an address
that was looked at, not to what the name stands for a moment later. For all addresses of a request together,
no more than a body may hold is read, within one time.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from urllib.parse import SplitResult, urljoin, urlsplit

from ringworld.core.version import __version__
from ringworld.serving.config import ServingConfig
from ringworld.serving.deadline import Deadline
from ringworld.serving.errors import ApiError
from ringworld.serving.room import room_in

_PORTS = {"http": 80, "https": 443}
_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_PIECE_BYTES = 2**16
_LONGEST_URL = 4096
_GRACE_SECONDS = 0.05
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST = ipaddress.IPv6Network("2000::/3")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: Address) -> bool:
    """Return whether an address is one of the internet, also where it stands within one of IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in _NAT64:
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        # Outside of these two no address is assigned, whatever Python's tables say of it.
        if not (address in _UNICAST or address in _NAT64):
            return False
        if not all(each is None or is_public(each) for each in inner):
            return False
    return address.is_global and not address.is_multicast


def resolve(host: str, port: int) -> list[Address]:
    """Return all that a name stands for.

    Raises:
        OSError: it stands for nothing.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # An address of IPv6 may name an interface after a percent sign.
    return [ipaddress.ip_address(str(address[0]).partition("%")[0]) for *_, address in found]


class Fetch:
    """What fetches for one request."""

    def __init__(
        self,
        config: ServingConfig,
        *,
        room: threading.Semaphore,
        deadline: Deadline,
        resolve: Callable[[str, int], Sequence[Address]] = resolve,
        allows: Callable[[Address], bool] = is_public,
        ports: tuple[int, ...] = tuple(_PORTS.values()),
    ) -> None:
        """Begin with all bytes and seconds.

        Args:
            config: which hosts, how many bytes, and how long.
            room: for those who fetch at once.
            deadline: of the request.
            resolve: asked once for each connection.
            allows: which addresses may be connected to.
            ports: to which ports.
        """
        self._limits, self._resolve, self._allows, self._ports = config.limits, resolve, allows, ports
        self._room, self._deadline = room, deadline
        self._bytes, self._seconds = self._limits.max_body_bytes, self._limits.max_fetch_seconds
        self._hosts = {each.lower().rstrip(".") for each in config.allow_host}

    def fetch(self, url: str, *, field: str) -> bytes:
        """Return what an address holds; it takes long, so call it in a thread.

        Args:
            url: of `http` or `https`.
            field: of the request, which errors name.

        Raises:
            ApiError: the host, its address or a redirect is not allowed, it does not answer, or it sends too
                much or takes too long; or as many are fetched as may be.
            ClientDisconnect: nobody waits for it any more.
        """
        problem = "as many addresses are being fetched as may be; ask again later"
        full = ApiError(429, problem, kind="rate_limit_error", param=field, code="too_many_fetches")
        begun = time.monotonic()
        until = begun + self._seconds
        try:
            with room_in(self._room, full=full):
                return self._followed(url, until=until, field=field)
        finally:
            self._seconds -= time.monotonic() - begun

    def _followed(self, url: str, *, until: float, field: str) -> bytes:
        """Return what is found where all redirects of an address end."""
        for _ in range(1 + _MOST_REDIRECTS):
            with self._response(url, until=until, field=field) as response:
                if response.status not in _REDIRECTS:
                    return self._content(response, until=until, field=field)
                url = urljoin(url, response.headers.get("location", ""))
        raise _refused(field, f"redirects more than {_MOST_REDIRECTS} times")

    @contextlib.contextmanager
    def _response(self, url: str, *, until: float, field: str) -> Iterator[http.client.HTTPResponse]:
        """Ask for an address; where time is over the connection is ended, whatever is waited for."""
        parts, port = self._checked(url, field=field)
        assert parts.hostname is not None
        with contextlib.ExitStack() as stack:
            try:
                sock = stack.enter_context(self._connected(parts, port, until=until, field=field))
                # The socket's own timeout begins anew with each byte. What this one ends is known to be late.
                left = max(0.0, until - time.monotonic()) + _GRACE_SECONDS
                timer = threading.Timer(left, _end, [sock])
                timer.daemon = True
                timer.start()
                stack.callback(timer.cancel)
                stack.enter_context(self._deadline.ending(partial(_end, sock)))
                if isinstance(sock, ssl.SSLSocket):
                    sock.do_handshake()
                connection = http.client.HTTPConnection(parts.hostname, port)
                connection.sock = sock
                connection.request(
                    "GET",
                    (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
                    headers={"User-Agent": f"ringworld/{__version__}", "Accept-Encoding": "identity"},
                )
                yield stack.enter_context(connection.getresponse())
            except (OSError, http.client.HTTPException, ValueError) as error:
                reason = f"cannot be fetched ({type(error).__name__})"
                if time.monotonic() >= until:
                    reason = f"takes more than {self._limits.max_fetch_seconds:g} s to be fetched"
                raise _refused(field, reason) from None

    def _checked(self, url: str, *, field: str) -> tuple[SplitResult, int]:
        """Return the parts of an address, and its port."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError:
            raise _refused(field, "is no address") from None
        plain = len(url) <= _LONGEST_URL and url.isascii() and url.isprintable() and " " not in url
        if parts.scheme not in _PORTS or not host or not plain or parts.username is not None:
            raise _refused(
                field, "is no address of http or https, of printable ASCII without a name or password"
            )
        if host.rstrip(".") not in self._hosts:
            raise _refused(
                field, f"is at {host!r:.80}, which is none of the hosts that this server fetches from"
            )
        if port not in self._ports:
            raise _refused(field, f"is at port {port}, which is none of {', '.join(map(str, self._ports))}")
        return parts, port

    def _connected(self, parts: SplitResult, port: int, *, until: float, field: str) -> socket.socket:
        """Connect to an address that was looked at."""
        host = parts.hostname or ""
        addresses = self._resolved(host, port, until=until)
        if not addresses or not all(map(self._allows, addresses)):
            raise _refused(field, f"is at {host!r:.80}, which is an address of a network that is not public")
        sock = _first_of(addresses, port, until=until)
        if parts.scheme == "http":
            return sock
        context = ssl.create_default_context()
        return context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)

    def _resolved(self, host: str, port: int, *, until: float) -> Sequence[Address]:
        """Return what a name stands for; a resolver that takes longer is left to itself.

        Raises:
            OSError: it stands for nothing, or time is over.
        """
        found: Future[Sequence[Address]] = Future()

        def look_up() -> None:
            try:
                found.set_result(self._resolve(host, port))
            except Exception as error:  # raised again for whoever waits
                found.set_exception(error)

        threading.Thread(target=look_up, daemon=True).start()
        return found.result(timeout=max(0.0, until - time.monotonic()))

    def _content(self, response: http.client.HTTPResponse, *, until: float, field: str) -> bytes:
        if response.status != 200:
            raise _refused(field, f"is answered with the status {response.status}")
        content = bytearray()
        while part := response.read1(_PIECE_BYTES):
            content += part
            if len(content) > self._bytes:
                problem = (
                    f"holds, with all that was fetched before, more than {self._limits.max_body_bytes} bytes"
                )
                raise _refused(field, problem)
            if time.monotonic() >= until:
                break
        expected = response.headers.get("content-length", "")
        if time.monotonic() >= until or (expected.isdecimal() and len(content) < int(expected)):
            raise http.client.IncompleteRead(b"")
        self._bytes -= len(content)
        return bytes(content)


def _first_of(addresses: Sequence[Address], port: int, *, until: float) -> socket.socket:
    """Connect to the first address that answers."""
    problem: OSError = TimeoutError()
    for address in addresses:
        left = until - time.monotonic()
        if left <= 0:
            break
        try:
            return socket.create_connection((str(address), port), timeout=left)
        except OSError as error:
            problem = error
    raise problem


def _end(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _refused(field: str, problem: str) -> ApiError:
    return ApiError(400, f"{field} {problem}", param=field, code="address_not_fetched")
