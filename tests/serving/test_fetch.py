"""Addresses that requests name: fetched from hosts that are allowed, and from no network of our own."""

import base64
import ipaddress
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ringworld.core.errors import InputError
from ringworld.inference.config import EngineConfig
from ringworld.serving.config import ServingConfig, ServingLimits
from ringworld.serving.deadline import Deadline
from ringworld.serving.errors import ApiError
from ringworld.serving.fetch import Fetch, is_public
from tests.eventually import eventually
from tests.serving.test_server import WORLD, asking, picture, send, serving

RED = base64.b64decode(picture().partition(",")[2])
HERE = ipaddress.ip_address("127.0.0.1")
NAMES = {
    "pictures.test": [HERE],
    "inside.test": [ipaddress.ip_address("10.0.0.1")],
    "both.test": [HERE, ipaddress.ip_address("192.168.1.1")],
    "nobody.test": [],
}
HOSTS = ("Pictures.test", "inside.test", "both.test", "nobody.test")
LIMITS = ServingLimits(max_fetch_seconds=20.0)
STEPS = {
    "/again": "/red.png",
    "/twice": "/again?why=not",
    "/round": "/round",
    "/in": "http://inside.test:{port}/red.png",
    "/out": "http://elsewhere.test:{port}/red.png",
    "/file": "file:///etc/passwd",
    "/loopback": "http://127.0.0.1:{port}/red.png",
    "/other-port": "http://pictures.test:1/red.png",
}


class Double(BaseHTTPRequestHandler):
    """Answers as those do who mean well, and as those who do not."""

    asked: list[str] = []

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.asked.append(self.headers["Host"])
        if path in STEPS:
            self.send_response(302)
            self.send_header("Location", STEPS[path].format(port=self.connection.getsockname()[1]))
            self.end_headers()
        elif path == "/red.png":
            self.say(len(RED), [RED])
        elif path == "/half":
            self.say(1000, [RED])
        elif path == "/endless":
            self.say(None, (bytes(2**16) for _ in range(2**12)))
        elif path == "/slow":
            self.say(None, (time.sleep(0.02) or b"." for _ in range(500)))
        elif path == "/slow-head":
            for _ in range(500):
                self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                self.wfile.flush()
                time.sleep(0.02)
        else:
            self.send_error(404)

    def say(self, length, parts):
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        for part in parts:
            self.wfile.write(part)
            self.wfile.flush()

    def handle(self):
        try:
            super().handle()
        except OSError:  # whoever asked has gone away
            pass

    def log_message(self, format, *arguments):
        pass


@pytest.fixture(scope="module")
def double():
    with ThreadingHTTPServer(("127.0.0.1", 0), Double) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def fetching(port: int, limits: ServingLimits = LIMITS) -> Fetch:
    return Fetch(
        ServingConfig(name="tiny", limits=limits, allow_host=HOSTS),
        room=threading.Semaphore(),
        deadline=Deadline(60),
        resolve=lambda host, _: NAMES[host.rstrip(".")],
        allows=lambda address: address == HERE,
        ports=(port,),
    )


def refused(port: int, url: str, limits: ServingLimits = LIMITS) -> str:
    with pytest.raises(ApiError) as error:
        fetching(port, limits).fetch(url, field="image_url")
    assert (error.value.status, error.value.param, error.value.code) == (
        400,
        "image_url",
        "address_not_fetched",
    )
    return error.value.message


def test_a_file_is_fetched_also_after_redirects(double):
    for path in ("red.png", "again", "twice"):
        assert fetching(double).fetch(f"http://pictures.test:{double}/{path}", field="image_url") == RED
        assert fetching(double).fetch(f"HTTP://PICTURES.test.:{double}/{path}", field="image_url") == RED


@pytest.mark.parametrize(
    "url",
    [
        "http://elsewhere.test:{port}/red.png",
        "http://127.0.0.1:{port}/red.png",
        "http://localhost:{port}/red.png",
        "http://[::1]:{port}/red.png",
        "http://inside.test:{port}/red.png",
        "http://both.test:{port}/red.png",
        "http://nobody.test:{port}/red.png",
        "http://pictures.test/red.png",
        "http://pictures.test:99999/red.png",
        "http://name:word@pictures.test:{port}/red.png",
        "http://elsewhere.test:{port}@pictures.test:{port}/red.png",
        "http://pictures.test:{port}@elsewhere.test/red.png",
        "http://pictures.test:{port}/red.png\r\nX-Other: 1",
        "http://pictures.test:{port}/r\xe9d.png",
        "http://pictures.test:{port}/" + "r" * 5000,
        "http:///red.png",
        "http://[",
        "ftp://pictures.test/red.png",
        "file:///etc/passwd",
        "https://pictures.test:{port}/red.png",
        "http://pictures.test:{port}/none",
        "http://pictures.test:{port}/half",
        *(f"http://pictures.test:{{port}}{path}" for path in STEPS if path not in ("/again", "/twice")),
    ],
)
def test_what_is_not_allowed_or_not_whole_is_refused(double, url):
    asked = len(Double.asked)
    refused(double, url.replace("{port}", str(double)))
    # Whoever was asked is the one host that is allowed and public.
    assert set(Double.asked[asked:]) <= {f"pictures.test:{double}"}


def test_bytes_and_seconds_are_bounded_for_all_of_a_request(double):
    at = f"http://pictures.test:{double}"
    small = ServingLimits(max_body_bytes=2 * len(RED), max_fetch_seconds=20.0)
    assert str(2 * len(RED)) in refused(double, f"{at}/endless", small)
    both = fetching(double, small)
    for _ in range(2):
        assert both.fetch(f"{at}/red.png", field="image_url") == RED
    with pytest.raises(ApiError):
        both.fetch(f"{at}/red.png", field="image_url")
    hasty = ServingLimits(max_fetch_seconds=0.3)
    for path in ("slow", "slow-head"):
        begun = time.monotonic()
        assert "0.3 s" in refused(double, f"{at}/{path}", hasty)
        assert time.monotonic() - begun < 5
    late = fetching(double, hasty)
    for _ in range(2):
        with pytest.raises(ApiError):
            late.fetch(f"{at}/slow", field="image_url")


def test_a_name_that_is_looked_up_too_long_is_given_up():
    over = threading.Event()
    hasty = ServingConfig(name="tiny", limits=ServingLimits(max_fetch_seconds=0.2), allow_host=HOSTS)
    late = Fetch(
        hasty,
        room=threading.Semaphore(),
        deadline=Deadline(60),
        resolve=lambda *_: [HERE] if over.wait(60) else [],
        allows=lambda _: True,
        ports=(80,),
    )
    with pytest.raises(ApiError) as refused:
        late.fetch("http://pictures.test/red.png", field="image_url")
    assert not over.is_set()
    over.set()
    assert refused.value.code == "address_not_fetched"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fc00::1",
        "fec0::1",
        "::7f00:1",
        "64:ff9b:1::a00:1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2001:0:7f00:1::",
    ],
)
def test_no_address_of_a_network_of_ours_is_public(address):
    assert not is_public(ipaddress.ip_address(address))


def test_addresses_of_the_internet_are_public():
    for address in ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::808:808"):
        assert is_public(ipaddress.ip_address(address))


def test_a_name_of_a_host_is_no_address():
    for host in ("http://a.test", "a.test:80", "a.test/b", "", "*.test", "a..test", "a b"):
        with pytest.raises(InputError) as error:
            ServingConfig(name="tiny", allow_host=(host,))
        assert (error.value.field, error.value.value) == ("allow_host", host)


def shown(address: str) -> dict:
    content = [{"type": "image_url", "image_url": {"url": address}}]
    return {"messages": [{"role": "user", "content": content}]}


def test_a_server_shows_what_an_address_holds_where_its_host_is_allowed(double):
    url = f"http://pictures.test:{double}/again"

    def ids(port: int, address: str):
        return send(port, "/tokenize", shown(address))

    fetch = partial(
        Fetch,
        resolve=lambda host, _: NAMES[host.rstrip(".")],
        allows=lambda address: address == HERE,
        ports=(double,),
    )
    with WORLD.engine(EngineConfig(max_sequences=1, chunk_tokens=64)) as engine:
        limits = {"max_fetches": 1}
        with serving(engine, allow_host=("pictures.test",), fetch=fetch, limits=limits) as port:
            status, answered = ids(port, url)
            assert (status, answered) == ids(port, picture())
            assert status == 200
            assert ids(port, f"http://inside.test:{double}/")[1]["error"]["code"] == "address_not_fetched"
            with asking(port, "/tokenize", shown(f"http://pictures.test:{double}/slow")):
                eventually(lambda: ids(port, url)[1].get("error", {}).get("code") == "too_many_fetches")
            # Whoever has left is not fetched for.
            eventually(lambda: ids(port, url)[0] == 200)
        asked = len(Double.asked)
        with serving(engine) as port:
            assert ids(port, url)[0] == 400
        assert len(Double.asked) == asked
