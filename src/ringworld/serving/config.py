"""Where a model is served, to whom, and how much is taken from them."""

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path

from ringworld.core.errors import InputError
from ringworld.core.ranges import check_range

LEAST_RATE, MOST_RATE = 0.01, 120.0
"""Frames a second that a request may name."""
_HOST = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.?")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingLimits:
    """How much is taken from those who ask; each is refused by an error of its own."""

    max_body_bytes: int = 2**25
    """Longest request."""
    max_requests: int = 256
    """Most requests that are answered at once, streams included."""
    max_choices: int = 128
    """Most texts or images that one request may ask for."""
    max_frames: int = 1024
    """Most frames of a video that a request may have drawn, or watched."""
    max_videos: int = 64
    """Most drawn videos that are kept, in memory."""
    max_files: int = 64
    """Most files that are kept, in a temporary folder."""
    max_memories: int = 64
    """Most memories that the memory folder may hold."""
    keep_seconds: float = 3600.0
    """How long a file or a drawn video is kept."""
    max_pixels: int = 2**25
    """Most pixels of a picture or of a frame that is sent; the default holds 8K."""
    max_video_seconds: float = 14400.0
    """Longest video that is sent."""
    max_decode_seconds: float = 120.0
    """How long the decoding of a file may take."""
    max_decode_bytes: int = 2**32
    """Most memory of a decoder, addresses that it only reserves included."""
    max_fetches: int = 16
    """Most addresses that are fetched at once."""
    max_fetch_seconds: float = 30.0
    """How long the fetching for one request may take; of bytes it may hold as many as a request."""
    max_seconds: float = 3600.0
    """How long a request may take, from its body to the last of its answer."""

    def __post_init__(self) -> None:
        """Refuse limits that nothing passes."""
        check_range(self, "max_body_bytes", "max_choices", "max_frames", "max_videos", "max_files", least=1)
        check_range(
            self, "max_pixels", "max_decode_bytes", "max_memories", "max_requests", "max_fetches", least=1
        )
        check_range(self, "keep_seconds", "max_seconds", "max_video_seconds", "max_decode_seconds", above=0)
        check_range(self, "max_fetch_seconds", above=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingConfig:
    """One address of one model."""

    name: str
    """What requests call the model."""
    host: str = "127.0.0.1"
    """Address to listen at."""
    port: int = 8000
    """0 takes one that is free."""
    keys: tuple[str, ...] = field(default=(), repr=False)
    """Whoever asks shows one of these; none lets everybody ask."""
    without_key: bool = False
    """Lets everybody ask who reaches another address than this machine's own."""
    limits: ServingLimits = ServingLimits()
    """How much is taken from them."""
    memory_folder: Path | None = None
    """Where memories are kept; none keeps none."""
    allow_host: tuple[str, ...] = ()
    """Hosts from which pictures and films are fetched that requests name by an address, such as
    images.example.org; none fetches nothing."""
    keep_alive_seconds: float = 5.0
    """A stream is never silent for longer, so that a long prompt does not look like a dead connection."""
    shutdown_seconds: float = 10.0
    """What is being written may take so long to finish when the server is stopped."""

    def __post_init__(self) -> None:
        """Refuse to serve strangers without a key, unless that is wanted.

        Raises:
            InputError: strangers could ask without a key, a number is out of range, or a host is not named
                as one.
        """
        check_range(self, "port", least=0, most=65535)
        check_range(self, "keep_alive_seconds", "shutdown_seconds", above=0)
        if not self.loopback and not self.keys and not self.without_key:
            raise InputError(
                f"host is {self.host}, which others can reach, and no key is asked of them",
                field="host",
                value=self.host,
                remedy="set a key, or say that none is needed",
            )
        if any(len(key) < 8 or not key.isascii() or not key.isprintable() for key in self.keys):
            # Not the key itself: errors are logged.
            problem = "a key has fewer than 8 characters, or others than printable ASCII"
            raise InputError(problem, field="keys", remedy="make one with `openssl rand -hex 24`")
        for host in self.allow_host:
            if not _HOST.fullmatch(host):
                raise InputError(
                    f"allow_host holds {host!r:.80}, which is no name of a host",
                    field="allow_host",
                    value=host,
                    remedy="write it as images.example.org, without a scheme, a port or a path",
                )

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
