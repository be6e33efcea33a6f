"""The methods paragraph: it gives every setting that a reader needs, and cites entries that exist."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
from made_runs import made_run
from omegaconf import OmegaConf
from sharing import composed

from bench.records.read import Run
from bench.reporting.exhibits import adaptive, generators, rounds
from bench.reporting.groups import Group
from bench.reporting.methods import SOURCES, bibliography, methods, references

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made_run(tmp_path_factory.mktemp("one"))


def test_methods_say_every_value_of_what_differs(tmp_path: Path, run: Run):
    cooler = made_run(tmp_path, settings={"temperature": 0.7, "training.epochs": 2})
    text = methods([run, cooler])
    assert "at temperature 0.7 or 1 and top-p 1" in text
    assert "for 2 or 3 epochs" in text
    assert (
        "These settings varied: training.epochs (3 or 2) and temperature (1.0 or 0.7); 2 configurations in all." in text
    )
    assert "chain rule" in text
    assert "chain rule" not in methods([run])
    assert "varied" not in methods([run])


def test_methods_give_the_settings_of_a_selection_and_no_place_of_this_machine(tmp_path: Path):
    chosen = {"selection._target_": "bench.selection.softmax", "selection.temperature": 0.1}
    lies = {"policy": {"_target_": "bench.models.loading.folder", "path": "someone/models/small-math/"}}
    text = methods([made_run(tmp_path, settings=chosen | lies)])
    assert "were selected by softmax (temperature 0.1) [@verdun2025]." in text
    assert "The task was word problems. The base policy was small-math. For each" in text
    assert "someone" not in text


def test_methods_say_what_the_parts_are(tmp_path: Path):
    text = methods([made_run(tmp_path)])
    assert "a Llama of 2 layers and hidden size 96, pretrained from scratch on 32,000 of the task's noisy" in text
    assert "scored by the task's verifier, and" in text
    hub = made_run(
        tmp_path, settings={"policy": {"_target_": "bench.policies.from_hub", "id": "some/model", "path": None}}
    )
    assert "The base policy was some/model." in methods([hub])


@pytest.mark.parametrize(
    ("procedure", "overrides", "words"),
    [
        (rounds, ["train_on=last"], "for 3 rounds, each drawing from the policy that the last one fine-tuned and "),
        (generators, [], "drawn by student and larger and smaller in shares of 1 to 1 to 1, where"),
        (adaptive, [], "the most of every prompt; a prompt was done with 1 of a reward above 0.5."),
        (adaptive, ["allocate=hard", "stop=none"], "the mean, with at most 64 where none had been accepted after 2."),
    ],
)
def test_methods_say_a_procedure_that_is_not_one_round(procedure: ModuleType, overrides: list[str], words: str):
    name = procedure.__name__.rsplit(".", 1)[-1]
    cfg = composed(f"procedure={name}", *(f"procedure.{setting}" for setting in overrides))
    config = cast("dict[str, Any]", OmegaConf.to_container(cfg.procedure, resolve=False))
    marks = {"adaptive/samples_total": 1, "generators/names": "student", "rounds/run": 3}  # of the three procedures
    run = Run(Path("run"), {"procedure": config}, marks, {})
    (sentence,) = procedure.methods([Group({}, (run,))])
    assert words in sentence


def test_methods_name_the_tests_of_one_and_of_several_seeds(tmp_path: Path, run: Run):
    assert "@mcnemar1947" in methods([run])
    several = methods([run, made_run(tmp_path, seed=1)])
    assert "@satterthwaite1946" in several
    assert "the training seeds 0 and 1" in several


def test_the_references_are_those_that_the_methods_cite(run: Run):
    text = methods([run])
    keys = re.findall(r"^@\w+\{(\w+),$", references(text), re.M)
    assert keys == sorted(set(re.findall(r"(?<!\w)@(\w+)", text)))
    assert "touvron2023" in keys
    assert "liu2023" not in keys


def test_every_key_that_is_cited_has_an_entry_and_every_entry_is_cited():
    sources = [path.read_text() for end in ("py", "md") for path in (ROOT / "bench").rglob(f"*.{end}")]
    cited = {
        key for text in sources for keys in re.findall(r"\[@([^\]{}]+)\]", text) for key in re.findall(r"\w+", keys)
    }
    assert cited - {"key"} | set(SOURCES.values()) == set(bibliography())


@pytest.mark.parametrize(("key", "entry"), bibliography().items())
def test_an_entry_parses(key: str, entry: str):
    """As BibTeX reads it: a type, a key, and fields in balanced braces."""
    head, *fields, end = entry.split("\n")
    assert re.fullmatch(rf"@(misc|article|book)\{{{key},", head)
    assert end == "}"
    assert all(re.fullmatch(r"  \w+ = \{.+\},?", field) for field in fields)
    assert [field.endswith(",") for field in fields] == [True] * (len(fields) - 1) + [False]
    assert all(field.count("{") == field.count("}") for field in fields)
    names = [field.split()[0] for field in fields]
    assert {"title", "author", "year"} <= set(names)
    assert len(names) == len(set(names))


def test_a_setting_with_an_at_sign_cites_nothing(tmp_path: Path):
    settings = {"name": "@hu2021", "training.scheduler": "@x <b>`y`", "policy.path": "models/@hu2021"}
    text = methods([made_run(tmp_path, settings=settings)])
    assert r"\@x \<b>\`y\` schedule" in text
    assert r"The base policy was \@hu2021." in text
    assert references(text) == references(methods([made_run(tmp_path)]))
