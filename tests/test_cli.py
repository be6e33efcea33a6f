"""The command line: quick answers, and one sentence for every kind of bad input before any work starts."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig, open_dict

from bench import report
from bench.__main__ import main
from bench.config.compose import CONF, Composer, compose_one, composing

NOT_COMPOSED = {  # where Hydra finds no such setting or choice, and what says more than one experiment
    "foo=1": ["foo is not a setting"],
    "temprature=1": ["temprature is not a setting", "did you mean temperature"],
    "task.trainprompts=3": ["task.trainprompts", "did you mean task.train_prompts"],
    "selection=tpo": ["selection=tpo does not exist", "top_per_prompt", "distinct_correct"],
    "selection=top_per_promt": ["selection=top_per_promt does not exist; did you mean top_per_prompt"],
    "selecton=top_per_prompt": ["selecton is not a setting; did you mean selection?"],
    "num_completion=8": ["num_completion is not a setting; did you mean num_completions?"],
    "epochs=1": ["epochs is not a setting; did you mean training.epochs?"],
    "-m sweep=round": ["sweep=round does not exist; did you mean rounds?"],
    "hydra/launcher=jobilb": ["hydra/launcher=jobilb does not exist; did you mean joblib?"],
    "--foo": ["unrecognized arguments: --foo"],
    "--hepl": ["unrecognized arguments: --hepl; did you mean --help?"],
    "num_completions": ["'num_completions'", "name=value"],
    "num_completions=4,8": ["num_completions=4,8", "-m"],
    "experiment=3": ["experiment=3 does not exist"],
    "task=null": ["task=null does not exist", "word_problems"],
    "policy=null": ["policy=null does not exist", "tiny"],
    "selection=3": ["selection=3 does not exist", "top_per_prompt"],
    "-m selection=top_per_prompt,3": ["selection=3 does not exist", "top_per_prompt"],
    "-m top_p=1.0,0,1.0": ["top_p=0", "above 0 and at most 1"],
    "-m selection=top_per_prompt,top_k_overall selection.k=5": ["selection.k is not a setting of the chosen selection"],
    "-m selection=top_per_prompt,tpo": ["selection=tpo does not exist"],
    "a=1 -m num_completions=0,4": ["num_completions=0,4", "options such as -m go before the settings"],
    "policy=folder policy.steps=200": ["policy.steps is not a setting of the chosen policy; `python"],
    "--config-dir nowhere": ["--config-dir nowhere: no such folder"],
    "--config-name config plan=true": ["--config-name and --config-path take no -m, sweep= or plan=true"],
    "--config-dir tests/own/conf hydra.searchpath=[] seed=0": ["name all folders in hydra.searchpath=[...]"],
    "-m seed=0,1 generation=openai generation.serves=/nope": ["generation.serves=/nope holds no config.json"],
    "tracking={a:1}": ["tracking={a:1} does not exist; tracking can be none, tensorboard, wandb"],
    "tracking=[wandb]": ["tracking=[wandb] does not exist", "wandb"],
    "=1": ["'=1' names no setting", "name=value"],
    "training.lora.rr=8": ["training.lora.rr is not a setting; did you mean training.lora?"],
    "sweep=../config": ["sweep=../config does not exist", "selection_methods"],
    "selection=/etc/passwd": ["selection=/etc/passwd does not exist", "top_per_prompt"],
}
REFUSED = {  # by checks, once it is composed
    "+foo=1": ["foo is not a setting"],
    "+selection.foo=1": ["selection.foo is not a setting of top_per_prompt"],
    "+selction=x": ["selction is not a setting", "did you mean selection?"],
    "+selection.kk=3 selection=top_k_per_prompt": ["selection.kk is not a setting", "which has k; did you mean k?"],
    "top_p=0": ["top_p=0", "above 0 and at most 1"],
    "top_p=1.01": ["top_p=1.01", "above 0 and at most 1"],
    "temperature=-1": ["temperature=-1", "at least 0"],
    "temperature=warm": ["temperature=warm", "a number"],
    "num_completions=0": ["num_completions=0", "whole number of at least 1"],
    "num_completions=2.5": ["num_completions=2.5", "whole number"],
    "seed=-1": ["seed=-1", "at least 0"],
    "seed=???": ["seed has no value"],
    "temperature=0": ["temperature=0 is greedy", "num_completions=16"],
    "evaluation.kl_completions=99": ["evaluation.kl_completions=99", "evaluation.num_completions=16"],
    "selection=top_k_overall selection.k=99999": ["selection.k=99999", "600 prompts x 16 completions = 9600"],
    "task.train_prompts=10000000": ["task.train_prompts=10000000"],
    "num_completions=null": ["num_completions=null", "whole number of at least 1"],
    "temperature=null": ["temperature=null", "a number of at least 0"],
    "seed=null": ["seed=null", "whole number of at least 0"],
    "training.batch_size=null": ["training.batch_size=null", "whole number of at least 1"],
    "~threads": ["threads has no value"],
    "~evaluation.lm_eval": ["evaluation.lm_eval has no value, and evaluate (", "needs one: it must be true or false"],
    "~evaluation.transfer": ["evaluation.transfer has no value, and evaluate (", "needs one."],
    "scoring=length ~scoring.prefer": ["scoring.prefer has no value, and length (bench.scoring.length.length) needs"],
    "selection=rso ~selection.k": ["selection.k has no value", "needs one: it must be a whole number of at least 1"],
    "training=lora ~training.lora.r": ["training.lora.r has no value, and Lora (", "a whole number of at least 1"],
    "policy.steps=-3": ["policy.steps=-3", "whole number of at least 1"],
    "policy.steps=0": ["policy.steps=0", "whole number of at least 1"],
    "policy.demonstrations=0": ["policy.demonstrations=0", "whole number of at least 1"],
    "policy.learning_rate=x": ["policy.learning_rate=x", "a number above 0"],
    "policy.learning_rate=0": ["policy.learning_rate=0", "a number above 0"],
    "task.train_prompts=abc": ["task.train_prompts=abc", "whole number of at least 1"],
    "task.train_prompts=0": ["task.train_prompts=0", "whole number of at least 1"],
    "task.validation_prompts=0": ["task.validation_prompts=0", "whole number of at least 1"],
    "task.test_prompts=1": ["task.test_prompts=1", "whole number of at least 2"],
    "generation.dtype=foo": ["generation.dtype=foo", "one of auto, float32, bfloat16, float16"],
    "generation.batch_tokens=0": ["generation.batch_tokens=0", "whole number of at least 1"],
    "generation.batch_tokens=x": ["generation.batch_tokens=x", "whole number of at least 1"],
    "generation.temperature=0.5": ["generation.temperature=0.5", "set temperature instead"],
    "generation.top_p=null": ["generation.top_p=null", "set top_p instead"],
    "generation.max_new_tokens=7": ["generation.max_new_tokens=7", "set task.max_new_tokens instead"],
    "scoring.every_step=2": ["scoring.every_step=2", "true or false"],
    "training.weight_decay=abc": ["training.weight_decay=abc", "a number of at least 0"],
    "training.max_grad_norm=abc": ["training.max_grad_norm=abc", "a number of at least 0"],
    "split=train": ["split=train", "one of validation, test"],
    "split=validation task.validation_prompts=1": ["task.validation_prompts=1", "split=validation"],
    "split=validation scoring=trained_reward_model scoring.pairs_from=validation": ["scoring.pairs_from=validation"],
    "split=validation scoring=ensemble scoring.member.pairs_from=validation": ["scoring.member.pairs_from=validation"],
    "training.warmup=2": ["training.warmup=2", "at least 0 and below 1"],
    "training.warmup=1": ["training.warmup=1", "at least 0 and below 1"],
    "training.scheduler=foo": ["training.scheduler=foo", "one of constant, linear, cosine"],
    "training.micro_batch_size=5": ["training.micro_batch_size=5", "must divide training.batch_size=32"],
    "training.micro_batch_size=0": ["training.micro_batch_size=0", "at least 1, or null"],
    "evaluation.lm_eval=maybe": ["evaluation.lm_eval=maybe", "true or false"],
    "evaluation.lm_eval=null": ["evaluation.lm_eval=null", "true or false"],
    "tracking.mode=foo": ["tracking.mode=foo", "one of online, offline, disabled, or null"],
    "evaluation.kl_completions=${foo}": ["'foo' not found", "evaluation.kl_completions"],
    "name=../../x": ["name=../../x", "a plain name"],
    "name=": ["name= is not allowed", "a plain name"],
    "name=..": ["name=..", "not starting with '.'"],
    "name=2024": ["name=2024", "not a mere number"],
    "store=null": ["store=null", "path of a folder"],
    "outputs=3": ["outputs=3", "path of a folder"],
    "policy=folder": ["policy.path has no value"],
    "policy=folder policy.path=nowhere": ["policy.path=", "config.json"],
    "temperature=1e-320": ["temperature=1e-320", "at least 0, and not between 0 and 0.0001"],
    "temperature=1e300": ["temperature=1e+300", "at least 0 and at most 100"],
    "evaluation.temperature=1e-6": ["evaluation.temperature=1e-06", "not between 0 and 0.0001"],
    "num_completions=1000000000000": ["num_completions=1000000000000", "at least 1 and at most 100,000"],
    "threads=999999999": ["threads=999999999", "at most 1,024"],
    "generation.batch_tokens=10000000000": ["generation.batch_tokens", "at most 1,000,000,000"],
    "training.micro_batch_size=100000000": ["training.micro_batch_size", "at most 1,000,000, or null"],
    "evaluation.harness_seeds=[0,100000000000000000000]": [
        "evaluation.harness_seeds",
        "at most 9,223,372,036,854,775,807",
    ],
    "name=" + "x" * 129: ["at most 128 letters"],
    "scoring=reward_model scoring.model=/nonexistent": ["scoring.model=/nonexistent is not a folder"],
    "scoring=trained_reward_model scoring.layers=99": ["scoring.layers=99", "at most 2"],
    "scoring=ensemble scoring.member.layers=99": ["scoring.member.layers=99", "at most 2"],
    "scoring=trained_reward_model scoring.pairs=999999": ["scoring.pairs=999999", "at most 76800"],
    "scoring=trained_reward_model scoring.micro_batch_size=3": ["scoring.micro_batch_size=3", "scoring.batch_size=16"],
    "scoring=trained_reward_model scoring.hidden_size=64": ["scoring.hidden_size=64", "scoring.from_scratch=true"],
    "task.max_new_tokens=100000": ["task.max_new_tokens=100000", "context of 256"],
    "task.max_new_tokens=255 policy.demonstrations=50": ["Prompt train-", "max_new_tokens=255", "context of 256"],
    "generation=openai generation.serves=/nope": ["generation.serves=/nope holds no config.json"],
    "selection=mbr_embeddings selection.similarity.model=/nope": [
        "selection.similarity.model=/nope holds no config.json"
    ],
    "evaluation.harness_include=/nope": ["evaluation.harness_include=/nope is no folder"],
    "task.test_prompts=99999": ["task.test_prompts=99999", "2869"],
    "training=lora training.lora.target_modules=[nope]": ["training.lora.target_modules=nope", "q_proj"],
    "training=lora training.lora.target_modules=[lm_head]": ["training.lora.target_modules=lm_head can't be adapted"],
    "+policy.hidden_size=100": ["policy.hidden_size=100", "policy.heads=3", "a multiple of twice as many, 6"],
    "procedure=generators num_completions=2 control=none": ["num_completions=2 leaves none for"],
    "~task": ["task can't be left out", "task=NAME"],
    "seed=${nope}": ["seed=${nope} refers to a setting that does not exist: 'nope' not found"],
    "seed=${sead}": ["'sead' not found; did you mean seed?"],
    "seed=${seed}": ["A setting refers to itself"],
    "policy._target_=nope.nope": ["policy._target_=nope.nope is no function or class", "No module named 'nope'"],
    "policy._target_=os.path": ["policy._target_=os.path is no function or class"],
    "tracking._partial_=false": ["tracking._partial_=false is not allowed: it must be true"],
    "+task._partial_=true": ["task._partial_=true is not allowed: it must be false"],
    "store=/dev/null/store": ["store=/dev/null/store can't be written"],
    "outputs=/dev/null/outputs": ["outputs=/dev/null/outputs can't be written"],
}


@pytest.fixture(scope="session")
def quickly() -> Callable[..., DictConfig]:
    """A function that composes each choice of parts once, beside the settings of Hydra that none of them changes."""
    composer = Composer()
    with composing(CONF):
        of_hydra = compose_one([], with_hydra=True).hydra

    def compose(overrides: list[str], *, with_hydra: bool) -> DictConfig:
        assert with_hydra
        cfg = composer.compose(overrides)
        with open_dict(cfg):
            cfg.hydra = of_hydra
        return cfg

    return compose


@pytest.mark.parametrize("arguments", [*NOT_COMPOSED, *REFUSED])
def test_bad_input_is_one_sentence_and_does_no_work(arguments, quickly, monkeypatch, tmp_path: Path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench", *arguments.split()])
    if arguments in REFUSED:
        monkeypatch.setattr("bench.__main__.compose_one", quickly)
    with pytest.raises(SystemExit) as stopped:
        main()
    message = str(stopped.value.code)
    for part in (NOT_COMPOSED | REFUSED)[arguments]:
        assert part in message
    assert message.startswith("error: ")
    assert "\n" not in message
    assert capsys.readouterr().err == ""
    stored = [path for path in tmp_path.rglob("*") if path.is_file() and ".locks" not in path.parts]
    assert [path.name for path in stored if path.name != "error.txt"] == []


def test_a_policy_folder_without_weights_is_refused(monkeypatch, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench", "policy=folder", "policy.path=empty"])
    with pytest.raises(SystemExit, match=r"error: policy.path=.*/empty holds no weights \(\*.safetensors\)"):
        main()


def test_every_cell_of_a_sweep_is_checked_before_the_first_runs(monkeypatch, tmp_path: Path):
    ran = []
    monkeypatch.setattr("bench.launching.runner.run_cell", lambda cfg, label: ran.append(cfg.top_p))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench", "-m", "top_p=1.0,0"])
    with pytest.raises(SystemExit, match="top_p=0 is not allowed"):
        main()
    assert ran == []
    monkeypatch.setattr(sys, "argv", ["bench", "-m", "top_p=1.0,0.5", "selection=glob(top*)"])
    with pytest.raises(SystemExit):  # none of the cells has come to anything
        main()
    assert ran == [1.0] * 3 + [0.5] * 3


def test_a_mistake_inside_the_work_is_not_taken_for_bad_input(monkeypatch, tmp_path: Path):
    def fail(cfg):
        raise ValueError("a defect")

    monkeypatch.setattr("bench.launching.runner.run_experiment", fail)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench"])
    with pytest.raises(ValueError, match="a defect"):
        main()


def write_run(folder: Path) -> None:
    (folder / "config.yaml").write_text("selection:\n  _target_: bench.selection.all_correct\n")
    (folder / "metrics.json").write_text('{"a": 1}')
    row = {"policy": "x", "method": "x", "metric": "x", "n": 1, "value": 0.5, "low": 0.4, "high": 0.6}
    pq.write_table(pa.Table.from_pylist([row]), folder / "curves.parquet")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metrics.json", '{"a": '),
        ("metrics.json", "[]"),
        ("config.yaml", "a: [\n"),
        ("config.yaml", ""),
        ("config.yaml", None),
        ("curves.parquet", "cut"),
        ("metrics.json", '{"b": 1}'),
    ],
)
def test_report_says_in_one_sentence_that_a_record_is_damaged(file, content, monkeypatch, tmp_path: Path, capsys):
    write_run(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        report.main()
    message = str(stopped.value.code)
    assert message.startswith("error: ")
    assert str(tmp_path) in message
    assert "again" in message
    assert "\n" not in message
    assert capsys.readouterr() == ("", "")


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_exit_status_and_no_traceback(tmp_path: Path):
    finished = run("top_p=0", cwd=tmp_path)
    assert finished.returncode == 1
    assert finished.stdout == ""
    assert finished.stderr.strip() == "error: top_p=0 is not allowed: it must be a number above 0 and at most 1."


def test_a_reader_that_has_seen_enough_ends_an_answer_in_silence(tmp_path: Path):
    command = f"'{sys.executable}' -m bench --cfg job | true"
    finished = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "line", "offered"),
    [
        (["--help"], "", ""),
        (["--cfg", "job"], "", ""),
        (["-sc", "query=bash"], "bench num_", "num_completions="),
        (["-sc", "query=bash"], "bench selection=", "selection=top_per_prompt"),
        (["-sc", "query=bash"], "bench task.", "task.seed="),
    ],
)
def test_answers_that_need_no_work_import_nothing_heavy_and_completion_knows_settings_and_choices(
    arguments, line, offered, tmp_path: Path
):
    heavy = ("torch", "transformers", "trl", "wandb", "lm_eval", "vllm", "matplotlib", "pyarrow", "datasets")
    script = (
        "import sys, atexit; sys.argv = ['bench', *sys.argv[1:]]\n"
        f"atexit.register(lambda: print('LOADED', [name for name in {heavy!r} if name in sys.modules]))\n"
        "from bench.__main__ import main; main()"
    )
    command = [sys.executable, "-c", script, *arguments]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=completing(line))
    assert "LOADED []" in finished.stdout
    assert not offered or offered in finished.stdout.split()


def completing(line: str) -> dict[str, str]:
    """What a shell sets when it asks for the completion of `line`."""
    return {"COMP_LINE": line, "COMP_POINT": str(len(line)), "PATH": ""}
