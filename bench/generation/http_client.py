"""JSON over HTTP for servers of language models: bounded concurrency, patience with busy servers, one-sentence errors.

What may pass is tried again with growing, jittered pauses: no connection, no answer in time, 429 and 5xx. Any other
refusal is the caller's mistake and is raised at once.
"""

import email.utils
import os
import queue
import random
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from bench.errors import BenchError
from bench.progress import say

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds
QUOTED = 300  # characters of a server's own words in an error


class RefusedError(BenchError):
    """The server answered, and not with success: `status` is HTTP's, `index` the body's place (None: no body)."""

    def __init__(self, sentence: str, *, status: int, index: int | None) -> None:
        super().__init__(sentence)
        self.status = status
        self.index = index


class UnavailableError(BenchError):
    """No usable answer after every retry."""


class _PassingError(Exception):
    """What went wrong, for the middle of a sentence, and the least pause in seconds before another attempt."""

    def __init__(self, problem: str, wait: float = 0.0) -> None:
        super().__init__(problem)
        self.wait = wait


def api_key(variable: str | None) -> str | None:
    """The key in an environment variable, so that no key stands in a configuration; None where no variable is named."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise BenchError(f"The environment variable {variable}, which api_key_env names, is empty or not set.")
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise BenchError(f"The environment variable {variable}, which api_key_env names, holds no API key.")
    return key


def get(url: str, *, api_key: str | None = None, timeout: float = 60.0, retries: int = 5) -> Any:
    """The JSON at `url`; errors as in `post_all`."""
    client = _Client(url, api_key, timeout, retries)
    try:
        return client.exchange(None, None)
    finally:
        client.close()


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
    """POST every body as JSON; yields (index of the body, the answer's JSON) as answers come, in any order.

    At most `concurrency` requests are under way at once, and `bodies` is read only as far as they need. timeout:
    seconds without a byte from the server. retries: further attempts of one body, each after twice the last pause
    (0.5 to 60 s, jittered), or after the server's Retry-After where that is longer. RefusedError for an answer that is
    not success, UnavailableError where none can be had; the rest is then not sent, nor when the generator is closed.
    A refusal whose status is among `tolerated` is yielded as the body's answer instead, a RefusedError.
    """
    client = _Client(url, api_key, timeout, retries)
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
        client.close()

    # Daemons: an interrupted program ends without waiting for answers that nobody will read.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(concurrency)]
    waiting, started = enumerate(bodies), 0
    outstanding = 0
    try:
        while True:
            while outstanding < 2 * concurrency and (item := next(waiting, None)) is not None:
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


class _Client:
    """One URL, with a connection kept open for each thread."""

    def __init__(self, url: str, api_key: str | None, timeout: float, retries: int) -> None:
        self.url, self.timeout, self.retries = url, timeout, retries
        self.stopped = threading.Event()
        self._key = api_key
        self._local = threading.local()
        self._said = threading.Lock()

    def exchange(self, body: Any, index: int | None) -> Any:
        """The answer to one body (None: a GET), after as many attempts as are allowed."""
        for attempt in range(self.retries + 1):
            try:
                return self._attempt(body, index)
            except _PassingError as error:
                passing = error
            if passing.wait > max(self.timeout, LONGEST_PAUSE):
                raise UnavailableError(f"{self.url} {passing} and asks to wait {passing.wait:.0f} s; try again then.")
            if attempt == self.retries or self.stopped.is_set():
                break
            if self._said.acquire(blocking=False):  # once a call: enough to explain a silence
                say(f"{self.url} {passing}; each request is tried up to {self.retries + 1} times")
            self.stopped.wait(max(passing.wait, _backoff(attempt)))
        raise UnavailableError(
            f"{self.url} {passing}, {attempt + 1} times in a row; is the right server running there, and well?"
        )

    def _attempt(self, body: Any, index: int | None) -> Any:
        import requests

        try:
            answer = self._session().request(
                "GET" if body is None else "POST",
                self.url,
                json=body,
                timeout=(min(self.timeout, 30.0), self.timeout),
                allow_redirects=False,  # a redirected POST would arrive as a GET, and the key elsewhere
            )
        except requests.Timeout as error:
            raise _PassingError(f"did not answer within {self.timeout:g} s") from error
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            raise _PassingError(f"can't be reached ({_root(error)})") from error
        except requests.RequestException as error:
            raise BenchError(f"{self.url} can't be asked: {error}") from error
        status, said = answer.status_code, _words(answer.content)
        if status == 429 or status >= 500:
            wait = _retry_after(answer.headers.get("Retry-After"))
            raise _PassingError(f"answers {status}{said and f' ({said})'}", wait)
        if status != 200:
            raise RefusedError(f"{self.url} answers {status}: {said or answer.reason}", status=status, index=index)
        try:
            return answer.json()
        except ValueError as error:
            raise RefusedError(
                f"{self.url} answers with what is not JSON: {said or 'nothing'}", status=status, index=index
            ) from error

    def close(self) -> None:
        """Close the calling thread's connection."""
        if hasattr(self._local, "session"):
            self._local.session.close()

    def _session(self) -> Any:
        import requests

        if not hasattr(self._local, "session"):
            session = requests.Session()
            session.auth = self._authorise  # a callable: else a .netrc entry for the host would replace the key
            self._local.session = session
        return self._local.session

    def _authorise(self, request: Any) -> Any:
        if self._key is not None:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


def _backoff(attempt: int) -> float:
    """Seconds, from half to the whole of 0.5, 1, 2, 4, ...: many clients must not come back at the same moment.

    The system's randomness, not a seeded stream: it decides when, never what, and must differ among processes.
    """
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt) * random.SystemRandom().uniform(0.5, 1.0)


def _retry_after(value: str | None) -> float:
    """Seconds in a Retry-After header (RFC 9110, section 10.2.3: a number, or a date); 0 where there is none."""
    if value is None:
        return 0.0
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def _words(content: bytes) -> str:
    """A server's own explanation, on one line: the message in an OpenAI-style error, or the body's beginning."""
    import json

    text = content.decode(errors="replace")
    try:
        message: Any = json.loads(text)
        while isinstance(message, dict):
            message = next((message[name] for name in ("error", "message", "detail") if name in message), str(message))
        text = str(message)
    except ValueError:
        pass
    line = " ".join(text.split())
    return line if len(line) <= QUOTED else f"{line[:QUOTED]} ..."


def _root(error: BaseException) -> str:
    """The innermost cause, e.g. "Connection refused", without the layers of libraries around it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        error, seen = seen, seen.__cause__ or seen.__context__
    return type(error).__name__
