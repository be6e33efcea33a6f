"""One model of one OpenAI-compatible server: which it is, and completions from it, with refusals explained."""

from collections.abc import Iterator, Sequence
from functools import partial

from bench.errors import BenchError
from bench.generation import http_client
from bench.generation.completions_api import PATHS, Answer, Request, body, parse


class Server:
    """One model of one server: requests in, parsed answers out."""

    def __init__(
        self,
        url: str,
        model: str | None,
        endpoint: str,
        *,
        extended: bool,
        key_variable: str | None,
        concurrency: int,
        timeout: float,
        retries: int,
    ) -> None:
        self.url, self.endpoint, self.extended = url.rstrip("/"), endpoint, extended
        key = http_client.api_key(key_variable)
        self._get = partial(http_client.get, api_key=key, timeout=timeout, retries=retries)
        self._post_all = partial(
            http_client.post_all, api_key=key, concurrency=concurrency, timeout=timeout, retries=retries
        )
        self.model = model or "null"  # for messages, until the server has said which it has
        self.model, self.context = self._chosen(model)

    def _chosen(self, model: str | None) -> tuple[str, int | None]:
        """The model's name and, where the server tells (vLLM), the tokens that its context holds."""
        try:
            listed = self._get(f"{self.url}/models")
        except http_client.RefusedError as error:
            if error.status == 404 and model is not None:
                return model, None  # a server that lists none still answers for this one, or doesn't
            raise self._explained(error, "") from error
        try:
            cards = {card["id"]: card for card in listed["data"]}
        except (TypeError, KeyError) as error:
            raise BenchError(
                f"{self.url}/models lists no models; is it an OpenAI-compatible server's address?"
            ) from error
        if model is None and len(cards) == 1:
            model = next(iter(cards))
        if model not in cards:
            raise BenchError(
                f"generation.model={'null' if model is None else model} is not one of the models of {self.url}: "
                f"{', '.join(cards) or 'none'}."
            )
        return str(model), cards[model].get("max_model_len")

    def answers(self, requests: Sequence[Request], stop_token_ids: list[int]) -> Iterator[tuple[int, Answer]]:
        """(index, answer) as they come; BenchError where one is refused or is not what was asked for."""
        bodies = (
            body(
                request,
                model=self.model,
                endpoint=self.endpoint,
                stop_token_ids=stop_token_ids,
                extended=self.extended,
            )
            for request in requests
        )
        url = self.url + PATHS[self.endpoint]
        try:
            for index, answer in self._post_all(url, bodies):
                yield index, parse(answer, requests[index], model=self.model, endpoint=self.endpoint)
        except http_client.RefusedError as error:
            asked = requests[error.index].prompt if error.index is not None else ""
            raise self._explained(error, asked) from error

    def _explained(self, error: http_client.RefusedError, prompt: str) -> BenchError:
        where = f" (prompt {prompt})" if prompt else ""
        if error.status in (401, 403):
            return BenchError(f"{error}{where}; generation.api_key_env=NAME names the variable with the API key.")
        if error.status == 404:
            return BenchError(
                f"{error}{where}; check generation.model={self.model} and generation.url={self.url}, which as a rule "
                "ends in /v1."
            )
        hints = []
        if error.status in (400, 422) and self.endpoint == "completions":
            hints.append("generation.endpoint=chat is for servers that take no token ids as a prompt")
        if error.status in (400, 422) and self.extended:
            hints.append("generation.extended_fields=false for those that refuse fields beyond OpenAI's")
        return BenchError("; ".join([f"{error}{where}", *hints]))
