"""Hub ids: found in a local cache as the hub's client lays it out, named by commit, refused in one sentence."""

import shutil
import socket
import threading
from pathlib import Path

import httpx
import pytest
from drawing import asking, generate
from huggingface_hub import errors
from sharing import composed

from bench import policies
from bench.artifacts import Policy
from bench.config import checks
from bench.errors import BenchError
from bench.models import hub, loading
from bench.training.lora import Lora
from bench.training.sft import fine_tune

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path: Path, random_policy: Policy, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cached model group/small: two commits of equal files, main at the newer, v1 at the older."""
    cache = tmp_path / "hub"
    model = cache / "models--group--small"
    for commit in (OLD, NEW):
        shutil.copytree(random_policy.path, model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(NEW)
    (model / "refs" / "v1").write_text(OLD)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    return cache


def test_a_revision_is_the_commit_that_it_names(cache, capsys, random_policy, store):
    main, v1, pinned = (policies.from_hub(None, id="group/small", revision=name) for name in ("main", "v1", NEW))
    assert main == pinned != v1
    assert (main.path.name, v1.path.name) == (NEW, OLD)
    assert main.fingerprint != random_policy.fingerprint
    assert capsys.readouterr().err.count("is commit") == 2  # a pinned one says nothing
    assert loading.folder(main.path) == main  # as the base of an adapter would be found
    prompts = asking("Hi")
    assert generate(prompts, main).token_ids[0, 0].tolist() == generate(prompts, random_policy).token_ids[0, 0].tolist()


def test_an_adapter_on_a_model_of_the_hub_names_its_snapshot(cache, store):
    from bench.artifacts import Selection

    base = policies.from_hub(None, id="group/small", revision=NEW)
    drawn = generate(asking("Hi"), base, num_completions=1)
    import numpy as np

    one = Selection(np.array([0]), np.array([0]), np.ones(1))
    lora = Lora(r=2, alpha=2, dropout=0.0, target_modules=("q_proj",), four_bit=False)
    tuned = fine_tune(base, asking("Hi"), drawn, one, epochs=1, lora=lora, seed=0)
    assert loading.base_of(tuned) == base


@pytest.mark.parametrize(
    ("id", "revision", "complaint"),
    [
        ("group/other", "main", r"policy\.id=group/other at revision main is not in the local cache and the hub can't"),
        ("group/small", "v2", r"at revision v2 is not in the local cache"),
        ("a--b/c", "main", r"policy\.id=a--b/c is no name of a model"),
    ],
)
def test_what_is_not_there_is_said_in_one_sentence(cache, id, revision, complaint):
    with pytest.raises(BenchError, match=complaint) as caught:
        policies.from_hub(None, id=id, revision=revision)
    assert "\n" not in str(caught.value)


def _answer(kind: type[Exception], status: int) -> Exception:
    request = httpx.Request("GET", "https://huggingface.co/api/models/group/small")
    return kind("said so", response=httpx.Response(status, request=request))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("error", "complaint"),
    [
        (_answer(errors.GatedRepoError, 403), "is gated: accept its terms at https://huggingface.co/group/small"),
        (_answer(errors.RepositoryNotFoundError, 404), "is no model of the hub, or a private one"),
        (
            _answer(errors.RevisionNotFoundError, 404),
            r"policy\.revision=main is no branch, tag or commit of group/small",
        ),
        (_answer(errors.HfHubHTTPError, 503), "the hub can't be reached"),
        (errors.LocalEntryNotFoundError("nothing here\nat all"), "the hub can't be reached.*nothing here"),
        (OSError("Network is unreachable"), "the hub can't be reached"),
    ],
)
def test_each_refusal_of_the_hub_has_its_own_sentence(monkeypatch, error, complaint):
    def refuse(*args, **options):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(BenchError, match=complaint) as caught:
        hub.snapshot("group/small", "main")
    assert "\n" not in str(caught.value)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The addresses to which a connection was tried; no name can be looked up."""
    tried: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], timeout: float) -> None:
        tried.append(address)
        raise socket.gaierror(-2, "Name or service not known")

    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.example")
    monkeypatch.setattr(socket, "create_connection", connect)
    return tried


def test_without_a_network_nothing_is_tried_again(cache, online, capsys, caplog):
    from huggingface_hub import constants

    with pytest.raises(BenchError, match=r"the hub can't be reached.*\(hub\.example: Name or service not known\)"):
        hub.snapshot("group/other", NEW)
    assert online == [("hub.example", 443)]
    assert hub.snapshot("group/small", "main").name == NEW  # from the cache
    assert not constants.HF_HUB_OFFLINE
    assert "Retrying" not in caplog.text + capsys.readouterr().err


def test_a_look_up_that_hangs_ends_after_the_time_for_it(online, monkeypatch):
    hanging = threading.Event()

    def connect(address: tuple[str, int], timeout: float) -> None:
        hanging.wait(60)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(hub, "PATIENCE", 0.05)
    with hub.at_once() as away:
        assert away == "hub.example did not answer within 0 seconds"
    hanging.set()


def test_where_there_is_a_proxy_it_is_what_must_answer(online, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    with hub.at_once() as away:
        assert away == "proxy.example: Name or service not known"
    monkeypatch.setenv("NO_PROXY", "hub.example")
    with hub.at_once():
        assert online == [("proxy.example", 3128), ("hub.example", 443)]


def test_offline_mode_asks_for_no_connection(online, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with hub.at_once() as away:
        assert away is None
    assert online == []


def test_only_safe_files_of_the_top_folder_are_asked_for(monkeypatch, random_policy):
    asked = []

    def download(id, *, revision, allow_patterns, ignore_patterns):
        asked.append((id, revision, allow_patterns, ignore_patterns))
        return str(random_policy.path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    hub.snapshot("group/small", NEW)
    hub.snapshot("group/small", NEW, code=True)
    from huggingface_hub.utils import filter_repo_objects

    files = ["config.json", "model.safetensors", "pytorch_model.bin", "model.py", "original/x.safetensors", "a.pth"]
    kept = [
        list(filter_repo_objects(files, allow_patterns=allow, ignore_patterns=ignore)) for _, _, allow, ignore in asked
    ]
    assert kept == [["config.json", "model.safetensors"], ["config.json", "model.safetensors", "model.py"]]


def test_weights_in_other_formats_and_missing_shards_are_refused(cache):
    folder = cache / "models--group--small" / "snapshots" / NEW
    weights = folder / "model.safetensors"
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}}'
    )
    weights.rename(folder / "x-1.safetensors")
    with pytest.raises(BenchError, match=r"not complete.*x-2\.safetensors is missing"):
        policies.from_hub(None, id="group/small")
    (folder / "x-1.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BenchError, match="no weights in safetensors"):
        policies.from_hub(None, id="group/small")


def test_names_that_can_be_no_model_are_refused_by_the_configuration():
    for wrong in ("a/b/c", "'a b'", "./folder"):
        with pytest.raises(BenchError, match=r"policy\.id=.* it must be the id of a model of the hub"):
            checks.check(composed("policy=hub", f"policy.id={wrong}"))
    checks.check(composed("policy=hub", "policy.id=Qwen/Qwen2.5-1.5B"))


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (f"/x/models--Qwen--Qwen2.5-1.5B/snapshots/{OLD}", ("Qwen/Qwen2.5-1.5B", OLD)),
        (f"/x/models--gpt2/snapshots/{OLD}", ("gpt2", OLD)),
        (f"/x/models--gpt2/blobs/{OLD}", None),
        ("/x/models--gpt2/snapshots/main", None),
        ("/x/y/z", None),
        ("/", None),
    ],
)
def test_a_snapshot_in_a_cache_is_known_by_its_path(path, named):
    assert hub.named_by(Path(path)) == named
