"""JSON over HTTP for servers of language models: bounded concurrency, retries by urllib3, one sentence per failure.

Failures that may pass are tried again after growing, jittered pauses: no connection, no whole answer in time, a cut
answer, HTTP 429 and 5xx. Any other refusal is the caller's mistake and is raised at once, as is an answer that is too
large or no JSON.
"""

import contextlib
import json
import os
import queue
import random
import threading
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from urllib3 import Retry, Timeout
from urllib3.exceptions import DecodeError, HTTPError, InvalidHeader, MaxRetryError, NewConnectionError, TimeoutError

from bench.errors import BenchError, quoted
from bench.generation.http_transport import MOST_BYTES, OversizedError, connections, content
from bench.progress import say

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds
MAY_PASS = (429, *range(500, 600))  # HTTP statuses
LONGEST_WAIT = 10**9  # seconds; a longer Retry-After says no more


class RefusedError(BenchError):
    """The server answered without success. status: HTTP's; index: the position of the body, None for a GET."""

    def __init__(self, sentence: str, *, status: int, index: int | None) -> None:
        super().__init__(sentence)
        self.status = status
        self.index = index


class UnavailableError(BenchError):
    """The server gave no usable answer in any attempt."""


def api_key(variable: str | None) -> str | None:
    """Return the key in an environment variable, so that no configuration holds it; None where none is named."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise BenchError(f"The environment variable {variable}, which api_key_env names, is empty or not set.")
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise BenchError(f"The environment variable {variable}, which api_key_env names, holds no API key.")
    return key


def get(url: str, *, api_key: str | None = None, timeout: float = 60.0, retries: int = 5) -> Any:
    """Return the JSON at `url`; errors as in `post_all`."""
    with contextlib.closing(_Client(url, api_key, timeout=timeout, retries=retries, concurrency=1)) as client:
        return client.exchange(None, None)


def post_all(
    url: str,
    bodies: Iterable[Any],
    *,
    api_key: str | None = None,
    concurrency: int = 16,
    timeout: float = 600.0,
    retries: int = 5,
    tolerated: Collection[int] = (),
) -> Iterator[tuple[int, Any]]:
    """POST every body as JSON; yield (index of the body, JSON of the answer) in the order of the answers.

    At most `concurrency` requests are under way at once, and `bodies` is read only as far as they need. timeout:
    seconds until the whole answer is there. retries: further attempts per body. The pause before each is twice the last
    one (0.5 to 60 s, jittered), or the server's Retry-After where that is longer. Raise RefusedError for an answer
    without success, UnavailableError where no attempt gives an answer. After an error, or once the generator is
    closed, no further body is sent. A refusal whose status is in `tolerated` is yielded as the answer: a RefusedError.
    """
    client = _Client(url, api_key, timeout=timeout, retries=retries, concurrency=concurrency)
    todo: queue.SimpleQueue[tuple[int, Any] | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        while (item := todo.get()) is not None and not client.stopped.is_set():
            index, body = item
            try:
                done.put((index, client.exchange(body, index), None))
            except BaseException as error:  # raised again where the answers are read
                if isinstance(error, RefusedError) and error.status in tolerated:
                    done.put((index, error, None))
                else:
                    done.put((index, None, error))
                    client.stopped.set()

    # Daemon threads: an interrupted program ends without waiting for answers that nobody will read.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(concurrency)]
    unsent, started, outstanding = enumerate(bodies), 0, 0
    try:
        while True:
            while outstanding < 2 * concurrency and (item := next(unsent, None)) is not None:
                todo.put(item)
                outstanding += 1
                if started < len(threads):
                    threads[started].start()
                    started += 1
            if not outstanding:
                return
            index, answer, error = done.get()
            outstanding -= 1
            if error is not None:
                raise error
            yield index, answer
    finally:
        client.stopped.set()
        for _ in range(started):
            todo.put(None)
        client.close()


class _Client:
    """One URL, and the connections to it that all threads share."""

    def __init__(self, url: str, api_key: str | None, *, timeout: float, retries: int, concurrency: int) -> None:
        self.url, self.timeout, self.retries = url, timeout, retries
        self.stopped = threading.Event()
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key is not None else {}
        self._connections = connections(url, concurrency)
        self._warned = threading.Lock()

    def exchange(self, body: Any, index: int | None) -> Any:
        """Return the JSON of the answer to one body (None: a GET), after as many attempts as are allowed."""
        method = "GET" if body is None else "POST"
        retries: Any = _Retry(self.retries, allowed_methods=None, status_forcelist=MAY_PASS, client=self)
        try:
            while True:
                answer = self._connections.request(
                    method,
                    self.url,
                    body=None if body is None else json.dumps(body).encode(),
                    headers={"Content-Type": "application/json", **self._headers},
                    timeout=Timeout(connect=min(self.timeout, 30.0), read=self.timeout),
                    retries=retries,
                    redirect=False,  # a redirected POST would arrive as a GET, and the key elsewhere
                    preload_content=False,
                )
                try:
                    body_read = content(answer)
                    break
                except DecodeError:
                    raise
                except HTTPError as error:  # the answer was cut, or took too long
                    retries = answer.retries.increment(method, self.url, error=error)
                    retries.sleep()
        except OversizedError as error:
            raise BenchError(f"{self.url} answers with more than {MOST_BYTES >> 20} MiB.") from error
        except HTTPError as error:
            raise BenchError(f"{self.url} can't be asked: {quoted(error)}") from error
        status, words = answer.status, _words(body_read)
        if status != 200:
            explanation = words or quoted(answer.reason or "")
            raise RefusedError(f"{self.url} answers {status}: {explanation}", status=status, index=index)
        try:
            return json.loads(body_read)
        except (ValueError, RecursionError) as error:
            raise RefusedError(
                f"{self.url} answers with what is not JSON: {words or 'nothing'}", status=status, index=index
            ) from error

    def warn(self, problem: str) -> None:
        """Say why requests are tried again, once per client: enough to explain a silence."""
        if not self.stopped.is_set() and self._warned.acquire(blocking=False):
            say(f"{self.url} {problem}; each request is tried up to {self.retries + 1} times")

    def close(self) -> None:
        self._connections.clear()


class _Retry(Retry):
    """urllib3's retries for one request, with our pauses and sentences."""

    RETRY_AFTER_STATUS_CODES = frozenset()  # only the statuses in status_forcelist are tried again

    def __init__(self, *args: Any, client: _Client, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.client = client

    def new(self, **changes: Any) -> "_Retry":
        return super().new(client=self.client, **changes)

    def increment(
        self, method: Any = None, url: Any = None, response: Any = None, error: Any = None, *rest: Any, **others: Any
    ) -> "_Retry":
        """Count a failed attempt; raise UnavailableError where no other one is allowed."""
        url, timeout = self.client.url, self.client.timeout
        if response is not None:
            words = _said(response)
            problem = f"answers {response.status}{words and f' ({words})'}"
        elif isinstance(error, TimeoutError) and not isinstance(error, NewConnectionError):
            problem = f"did not answer within {timeout:g} s"
        else:
            problem = f"can't be reached ({_root(error)})"
        wait = self._retry_after(response)
        if wait > max(timeout, LONGEST_PAUSE):
            raise UnavailableError(f"{url} {problem} and asks to wait {wait:.0f} s; try again then.")
        try:
            left = super().increment(method, url, response, error, *rest, **others)
        except MaxRetryError as exhausted:
            raise UnavailableError(
                f"{url} {problem}, {len(self.history) + 1} times in a row; is the right server running there, and well?"
            ) from exhausted
        self.client.warn(problem)
        return left

    def sleep(self, response: Any = None) -> None:
        """Pause, unless the client is stopped: then nobody reads the answer."""
        if self.client.stopped.wait(max(self._retry_after(response), self.get_backoff_time())):
            raise UnavailableError(f"{self.client.url} is no longer asked.")

    def get_backoff_time(self) -> float:
        """Return seconds, from half to the whole of 0.5, 1, 2, 4, ...: many clients must not return at one moment.

        The randomness is the system's and not a seeded stream (urllib3's own is): processes must differ, and no other
        draw may shift. It decides when a request is sent and never what it holds.
        """
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (len(self.history) - 1))
        return pause * random.SystemRandom().uniform(0.5, 1.0)

    def _retry_after(self, response: Any) -> float:
        """Return the seconds in the answer's Retry-After header, 0 where there is none that can be read."""
        try:
            return 0.0 if response is None else min(self.get_retry_after(response) or 0.0, LONGEST_WAIT)
        except (InvalidHeader, ValueError, OverflowError):
            return 0.0


def _said(answer: Any) -> str:
    """Return the server's explanation in an answer that may break off."""
    try:
        return _words(content(answer))
    except HTTPError:
        return ""


def _words(content: bytes) -> str:
    """Return the server's explanation on one line: the message of an OpenAI-style error, or the start of the body."""
    text = content.decode(errors="replace")
    try:
        message: Any = json.loads(text)
        while isinstance(message, dict):
            message = next((message[name] for name in ("error", "message", "detail") if name in message), str(message))
        text = str(message)
    except (ValueError, RecursionError):
        pass
    return quoted(text)


def _root(error: BaseException) -> str:
    """Return the innermost cause, e.g. "Connection refused", without the layers of libraries around it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        wrapped = next((argument for argument in cause.args if isinstance(argument, BaseException)), None)
        error, cause = cause, cause.__cause__ or cause.__context__ or wrapped
    return type(error).__name__
