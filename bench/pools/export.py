"""Write the pool of a run to a file that other tools read, and that `import` reads back.

python -m bench.pools export RUN FILE [split=test] [store=PATH] [tokens=ids]

FILE: NAME.jsonl, one line per completion; NAME.json or NAME.eval, an Inspect log; any other name, the folder of a
Hugging Face data set (datasets.load_from_disk).
split: test, the held-out pool of Best-of-N, or train. store: where the pool is now, if it was moved.
tokens: ids, the token ids of each completion (not in an Inspect log); count, their number.
"""

import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.artifacts import UNKNOWN
from bench.errors import BenchError, printable, quoted
from bench.pools.arrays import PROMPTS, options_of
from bench.records.completions import completions
from bench.records.read import Run, read_run
from bench.store.files import unique_name
from bench.tasks.files import is_missing

REWARD = "reward"


def main(words: Sequence[str]) -> None:
    places, options = options_of(words, ("split", "store", "tokens"), "python -m bench.pools export --help")
    if len(places) != 2:
        raise BenchError("Give a run's folder and a file: python -m bench.pools export RUN FILE.")
    rows = export(places[0], places[1], **options)
    print(f"{rows:,} completions in {printable(places[1])}")


def export(
    run: str | Path, file: str | Path, *, split: str = "test", store: str | Path | None = None, tokens: str = "count"
) -> int:
    """Write every completion of a run's pool; returns their number. BenchError where the file is there already."""
    place, source = Path(file), read_run(run)
    if place.exists():
        raise BenchError(f"{place} is there already: give another name, or delete it.")
    if not place.absolute().parent.is_dir():
        raise BenchError(f"{place.absolute().parent} is no folder: make it first.")
    if tokens not in ("count", "ids") or (tokens == "ids" and place.suffix in (".json", ".eval")):
        raise BenchError(f"tokens={tokens} is not allowed: it must be count, or ids where the file is no Inspect log.")
    rows = pool_rows(source, split, None if store is None else Path(store), token_ids=tokens == "ids")
    with made(place) as scratch:
        if place.suffix == ".jsonl":
            with scratch.open("w", encoding="utf-8") as opened:
                opened.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        elif place.suffix in (".json", ".eval"):
            _write_inspect(scratch, _inspect_log(source, rows), packed=place.suffix == ".eval")
        elif place.suffix:
            raise BenchError(f"{place}: name it NAME.jsonl, NAME.json, NAME.eval, or without a suffix for a data set.")
        else:
            from datasets import Dataset, disable_progress_bars

            disable_progress_bars()
            names = dict.fromkeys(name for row in rows for name in row)  # from_list takes those of the first row alone
            Dataset.from_dict({name: [row.get(name) for row in rows] for name in names}).save_to_disk(str(scratch))
    return len(rows)


@contextmanager
def made(place: Path) -> Iterator[Path]:
    """The name of a file or folder to make, which becomes `place` where all went well, and is removed where not."""
    scratch = place.with_name(f".making-{place.name[:50]}-{unique_name()}")
    try:
        yield scratch
        scratch.rename(place)
    except OSError as error:
        raise BenchError(f"{place} can't be written ({error.strerror or quoted(error)}).") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.unlink(missing_ok=True)


def pool_rows(run: Run, split: str, store: Path | None, *, token_ids: bool = False) -> list[dict[str, Any]]:
    """One row per completion under the names of columns that `import` knows; what is not known is left out."""
    frame = completions(run, split, store=store, token_ids=token_ids)
    if token_ids:
        frame["length"] = [[] if ids is None else ids.tolist() for ids in frame.pop("token_ids")]
    about = _prompts(run, split)
    renamed = frame.rename(columns={"prompt_id": "id", "text": "completion", "length": "tokens"})
    rewards = [name for name in renamed if str(name).startswith("reward.")]
    dropped = ["policy", *([REWARD] if rewards else [])]
    rows = []
    for row in renamed.drop(columns=dropped).to_dict("records"):
        known = {str(name): value for name, value in row.items() if not is_missing(value) and value != []}
        if known.get("finish_reason") == UNKNOWN:
            del known["finish_reason"]
        known |= about.get(str(row["id"]), {})
        if isinstance(known.get("tokens"), float):  # others of the column are missing
            known["tokens"] = int(known["tokens"])
        rows.append(known)
    return rows


def _prompts(run: Run, split: str) -> dict[str, dict[str, str]]:
    """By id: the prompt and its answer, as far as the run's records or its task have them."""
    if (run.folder / PROMPTS).is_file():
        return {
            row["prompt_id"]: {name: row[name] for name in ("prompt", "answer") if row[name]}
            for row in run.rows(PROMPTS)
        }
    from hydra.utils import instantiate

    prompts = instantiate(dict(run.config["task"]), _convert_="all").prompts(split)
    texts = ["\n\n".join(message["content"] for message in messages) for messages in prompts.messages]
    return {
        name: {"prompt": text, "answer": answer}
        for name, text, answer in zip(prompts.id.tolist(), texts, prompts.answer.tolist(), strict=True)
    }


def _inspect_log(run: Run, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The log as Inspect's version 2 has it: a sample per completion, whose epoch is its number from 1."""
    names = list(dict.fromkeys(str(row["id"]) for row in rows))
    epochs = max(int(row["sample"]) for row in rows) + 1
    model = "imported/" + run.folder.name
    created = "1970-01-01T00:00:00+00:00"  # the pool is older than the file, and equal pools give equal files
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": run.folder.name,
            "run_id": run.folder.name,
            "created": created,
            "task": run.folder.name,
            "task_id": run.folder.name,
            "task_version": 0,
            "dataset": {"name": run.folder.name, "samples": len(names), "sample_ids": names, "shuffled": False},
            "model": model,
            "config": {"epochs": epochs},
        },
        "plan": {"name": "plan", "steps": [], "config": {}},
        "samples": [_inspect_sample(row, model) for row in rows],
    }


def _inspect_sample(row: Mapping[str, Any], model: str) -> dict[str, Any]:
    text = row.get("completion", "")
    stop = {"length": "max_tokens"}.get(row.get("finish_reason", UNKNOWN), row.get("finish_reason", UNKNOWN))
    message = {"role": "assistant", "content": text, "source": "generate", "model": model}
    output: dict[str, Any] = {
        "model": model,
        "choices": [{"message": message, "stop_reason": stop}],
        "completion": text,
    }
    if "tokens" in row:
        output["usage"] = {"input_tokens": 0, "output_tokens": row["tokens"], "total_tokens": row["tokens"]}
    scores: dict[str, Any] = {}
    if "correct" in row:
        scores["correct"] = {"value": "C" if row["correct"] else "I"}
    scores |= {name: {"value": value} for name, value in row.items() if name.startswith(REWARD)}
    if "prediction" in row and scores:
        next(iter(scores.values()))["answer"] = row["prediction"]
    kept = ("logprob", "policy_logprob")
    return {
        "id": row["id"],
        "epoch": int(row["sample"]) + 1,
        "input": row.get("prompt", ""),
        "target": row.get("answer", ""),
        "messages": [{"role": "user", "content": row.get("prompt", "")}, message],
        "output": output,
        "scores": scores,
        "metadata": {name: row[name] for name in kept if name in row},
    }


def _write_inspect(file: Path, log: dict[str, Any], *, packed: bool) -> None:
    if not packed:
        file.write_text(json.dumps(log, ensure_ascii=False, allow_nan=False))
        return
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(name: str, content: Any) -> None:
            archive.writestr(zipfile.ZipInfo(name), json.dumps(content, ensure_ascii=False), zipfile.ZIP_DEFLATED)

        samples = log.pop("samples")
        add("_journal/start.json", {name: log[name] for name in ("version", "eval", "plan")})
        for sample in samples:
            add(f"samples/{quoted(sample['id']).replace('/', '_')}_epoch_{sample['epoch']}.json", sample)
        summarised = ("id", "epoch", "input", "target", "scores", "metadata")
        add("summaries.json", [{name: sample[name] for name in summarised} for sample in samples])
        add("header.json", log)
