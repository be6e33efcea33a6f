"""HTTP connections with bounded answers: each arrives whole within a time limit, and has at most MOST_BYTES."""

import http.client
import io
import os
import time
from typing import Any

MOST_BYTES = 32 * 2**20  # of one answer, as it is sent and as it is decompressed


class OversizedError(Exception):
    """An answer has more than MOST_BYTES."""


def connections(url: str, concurrency: int) -> Any:
    """Return urllib3's connections, with the proxy and certificates that requests reads from the environment."""
    import requests
    from urllib3 import PoolManager

    settings = requests.Session().merge_environment_settings(url, {}, None, None, None)
    verify = settings["verify"]
    bundle = requests.certs.where() if verify is True else verify
    certificates: dict[str, Any] = {"ca_cert_dir" if os.path.isdir(bundle) else "ca_certs": bundle}
    proxy = requests.utils.select_proxy(url, settings["proxies"])
    if proxy is None:
        found: Any = PoolManager(maxsize=concurrency, **certificates)
    else:
        proxy = requests.utils.prepend_scheme_if_needed(proxy, "http")
        found = requests.adapters.HTTPAdapter(pool_maxsize=concurrency).proxy_manager_for(proxy, **certificates)
    for scheme, pool in found.pool_classes_by_scheme.items():
        connection = type("Connection", (pool.ConnectionCls,), {"response_class": _Response})
        bounded = type("Pool", (pool,), {"ConnectionCls": connection})
        found.pool_classes_by_scheme = found.pool_classes_by_scheme | {scheme: bounded}
    return found


def content(answer: Any) -> bytes:
    """Return the whole body, decompressed."""
    found = bytearray()
    for part in answer.stream(2**16):
        found += part
        if len(found) > MOST_BYTES:
            answer.close()
            raise OversizedError
    return bytes(found)


class _Response(http.client.HTTPResponse):
    """An answer that must be there as a whole, headers too, within the socket's timeout."""

    def __init__(self, sock: Any, *args: Any, **settings: Any) -> None:
        super().__init__(sock, *args, **settings)
        self.fp: Any = io.BufferedReader(_Bounded(self.fp.detach(), sock))


class _Bounded(io.RawIOBase):
    """The bytes of one answer: at most MOST_BYTES, and none after the socket's timeout in total."""

    def __init__(self, raw: Any, sock: Any) -> None:
        self._raw, self._sock, self._left = raw, sock, MOST_BYTES
        self._end = None if sock.gettimeout() is None else time.monotonic() + sock.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._end is not None:
            self._sock.settimeout(max(self._end - time.monotonic(), 1e-3))
        count: int | None = self._raw.readinto(buffer)
        self._left -= count or 0
        if self._left < 0:
            raise OversizedError
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()
