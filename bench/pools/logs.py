"""The samples that lm-eval and Inspect log, as rows under this suite's names of columns."""

import io
import json
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import BenchError

Row = dict[str, Any]
LM_EVAL = ("doc_id", "resps", "filtered_resps", "filter")  # fields that tell its logged samples
MOST_BYTES = 2**28  # of one unpacked sample of an Inspect log, and a hundred times of its packed size and a MiB
ZSTD = 93  # the method of compression of Inspect's zip files that Python 3.11 lacks


@dataclass
class Choices:
    """The one that is read of several filters of lm-eval's log."""

    filter: str | None = None
    seen: set[str] = field(default_factory=set)


def is_lm_eval(row: Mapping[str, Any]) -> bool:
    return all(name in row for name in LM_EVAL)


def of_lm_eval(row: Row, choices: Choices) -> Row | None:
    """One logged document; None where it is logged under another filter. ValueError, as a clause, for no completion."""
    if not is_lm_eval(row):
        raise ValueError(f"lacks {', '.join(name for name in LM_EVAL if name not in row)}, which lm-eval logs")
    choices.seen.add(str(row["filter"]))
    if choices.filter is None and len(choices.seen) > 1:
        raise BenchError(
            f"lm-eval logged each document once per filter, {', '.join(sorted(choices.seen))}: say filter=NAME."
        )
    if choices.filter not in (None, row["filter"]):
        return None
    responses, kept = row["resps"], row["filtered_resps"]
    if not (isinstance(responses, list) and len(responses) == 1 and isinstance(responses[0], list)):
        raise ValueError("has several requests per document, as multiple choice has: it holds no completions")
    texts = responses[0]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("has log-likelihoods and no completions")
    votes = kept[0] if isinstance(kept, list) and len(kept) == 1 else None
    whole = isinstance(votes, list) and len(votes) == len(texts)
    first = [votes, *[None] * (len(texts) - 1)]  # a filter that keeps the first: the verdict is on that alone
    metrics = row.get("metrics") if isinstance(row.get("metrics"), list) else []
    verdicts = {
        str(name): [row.get(name), *[None] * (len(texts) - 1)]
        for name in metrics or ()
        if not (whole and len(texts) > 1)
    }
    return {
        "id": row["doc_id"],
        "prompt": _prompt(row.get("arguments")),
        "answer": row.get("target"),
        "completion": texts,
        "prediction": votes if whole else first,
        "scores": verdicts,
        "doc": row.get("doc"),
    }


def _prompt(arguments: Any) -> Any:
    """The text that the model was given: as lm-eval writes it to files, or as it holds it."""
    try:
        return arguments["gen_args_0"]["arg_0"] if isinstance(arguments, dict) else arguments[0][0]
    except (KeyError, IndexError, TypeError):
        return None


def inspect_rows(file: Path) -> Iterator[Row]:
    """The samples of an Inspect log: a .eval file, which is a zip of JSON files, or a JSON file."""
    with file.open("rb") as opened:
        if opened.read(2) != b"PK":
            try:
                content = json.loads(file.read_bytes())
            except (ValueError, RecursionError) as error:
                raise BenchError(f"{file} is no Inspect log: neither a zip of JSON files nor JSON.") from error
            yield from of_inspect(file, content)
            return
    try:
        with zipfile.ZipFile(file) as packed, file.open("rb") as raw:
            names = [info for info in packed.infolist() if info.filename.startswith("samples/")]
            if not names:
                raise BenchError(f"{file} has no samples: it is no Inspect log, or one that was written without them.")
            for info in names:
                yield _sample(file, json.loads(_unpacked(file, packed, raw, info)))
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, ValueError, RuntimeError, struct.error) as error:
        if isinstance(error, BenchError):
            raise
        raise BenchError(f"{file} is a damaged Inspect log: {str(error)[:100].rstrip('.')}.") from error


def _unpacked(file: Path, packed: zipfile.ZipFile, raw: Any, info: zipfile.ZipInfo) -> bytes:
    """One file of the zip. BenchError where it unpacks to more than a sample has."""
    if info.file_size > min(MOST_BYTES, 2**20 + 1000 * info.compress_size):
        raise BenchError(f"{file}: {info.filename} would unpack to {info.file_size:,} bytes, which no sample has.")
    if info.flag_bits & 1:
        raise BenchError(f"{file} is encrypted: give the log as Inspect wrote it.")
    if info.compress_type != ZSTD:
        with packed.open(info) as member:
            content = member.read(info.file_size + 1)
    else:
        import pyarrow as pa

        raw.seek(info.header_offset)
        header = raw.read(30)
        names = struct.unpack("<HH", header[26:30])  # the lengths of the name and of further fields
        raw.seek(info.header_offset + 30 + sum(names))
        try:
            with pa.input_stream(io.BytesIO(raw.read(info.compress_size)), compression="zstd") as member:
                content = member.read(info.file_size + 1)
        except (pa.ArrowException, OSError) as error:
            raise BenchError(f"{file} is a damaged Inspect log: {info.filename} can't be unpacked.") from error
        if zlib.crc32(content) != info.CRC:
            raise BenchError(f"{file} is a damaged Inspect log: {info.filename} does not match its checksum.")
    if len(content) != info.file_size:
        raise BenchError(f"{file}: {info.filename} is not as long as the zip says.")
    return content


def of_inspect(file: Path, content: Any) -> list[Row]:
    """The samples of an Inspect log that is one JSON object."""
    if not isinstance(content, dict) or not isinstance(content.get("eval"), dict):
        raise BenchError(f"{file} is no Inspect log: it lacks `eval`.")
    samples = content.get("samples")
    if not isinstance(samples, list) or not samples:
        raise BenchError(f"{file} has no samples: the evaluation logged none, or did not end.")
    return [_sample(file, sample) for sample in samples]


def _sample(file: Path, sample: Any) -> Row:
    if not isinstance(sample, dict) or not {"id", "epoch", "input", "target"} <= sample.keys():
        raise BenchError(f"{file} has a sample without id, epoch, input and target: it is no Inspect log.")
    output, scores = _inside(sample, "output"), _inside(sample, "scores")
    usage = _inside(output, "usage")
    choices = output.get("choices") if isinstance(output.get("choices"), list) else []
    first = choices[0] if choices and isinstance(choices[0], dict) else {}
    values = {name: score.get("value") for name, score in scores.items() if isinstance(score, dict)}
    answers = [score.get("answer") for score in scores.values() if isinstance(score, dict)]
    target = sample["target"]
    return {
        "id": sample["id"],
        "sample": sample["epoch"],
        "prompt": sample["input"],
        "answer": target[0] if isinstance(target, list) and len(target) == 1 else target,
        "completion": output.get("completion") if first else None,
        "finish_reason": first.get("stop_reason"),
        "tokens": usage.get("output_tokens"),
        "prediction": next((answer for answer in answers if isinstance(answer, str)), None),
        "scores": values,
        "metadata": sample.get("metadata"),
    }


def _inside(row: Row, name: str) -> Row:
    """The object in a field; empty where there is none."""
    value = row.get(name)
    return value if isinstance(value, dict) else {}


def text_of(messages: Any) -> Any:
    """The text of an input: itself, or what its messages say. ValueError, as a clause, for a list of other things."""
    if not isinstance(messages, list):
        return messages
    texts = messages if len(messages) == 1 and isinstance(messages[0], str) else [*map(_said, messages)]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("prompt is a list that is no chat")
    return "\n\n".join(texts) or None


def _said(message: Any) -> Any:
    """The text of a message, without its pictures; another thing where it is none."""
    held = message if isinstance(message, dict) else {}
    content = held.get("value") if held.get("content") is None else held["content"]
    if not isinstance(content, list):
        return content
    parts = [part.get("text", "") if isinstance(part, dict) else part for part in content]
    return "".join(parts) if all(isinstance(part, str) for part in parts) else None
