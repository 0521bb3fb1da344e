"""Downloads, from a hub of our own on this machine: what is fetched and where to, resuming, cancelling, errors."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

import sensenova_core
from sensenova_core import CheckpointError
from sensenova_core.cli.models import resolve_model
from sensenova_core.hub.download import Wanted, download, files_of, split_name
from sensenova_core.hub.download_record import RECORD, Record, check_origin, is_whole
from tests.conftest import REPOSITORY
from tests.support.fake_hub import PIECE, FakeHub
from tests.support.golden_set import checkpoint

REPO = "SenseNova/Tiny-U1.5"
TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"}
TOKENIZER |= {"added_tokens.json", "special_tokens_map.json"}
LOADED = {"config.json", "generation_config.json", "model.safetensors"}
SHUT = "http://127.0.0.1:9"  # where nobody answers


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """The tiny model's, and what nobody loads."""
    model = {file.name: file.read_bytes() for file in checkpoint("tiny-u15").iterdir()}
    return model | {"README.md": b"#", "pytorch_model.bin": b"\x80", "modeling.py": b"exit()", "cat.png": b"PNG"}


@pytest.fixture
def hub(files):
    many = {"config.json": b"{}", "x.safetensors.index.json": b"{}", "a-Q4.gguf": b"GGUF", "a-Q8.gguf": b"GGUF"}
    repositories = {REPO: files, "some/ggufs": many, "some/gated": 403, "some/broken": 500, "some/empty": {"a.md": b""}}
    with FakeHub(repositories) as hub:
        yield hub


@pytest.fixture
def run(hub, tmp_path):
    """Run the command line in a process of its own, as the hub's library reads its settings once."""

    def command(*arguments, **environment) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "sensenova_core", *map(str, arguments)]
        unset = {"COMFYUI_PATH", "HF_TOKEN", "HF_HUB_OFFLINE"}
        inherited = {key: value for key, value in os.environ.items() if key not in unset}
        settings = inherited | hub.environment(tmp_path / "home") | environment
        return subprocess.run(command, cwd=REPOSITORY, env=settings, capture_output=True, text=True, timeout=120)

    return command


def there(folder: Path) -> set[str]:
    """Names of files, without our record of them."""
    return {path.name for path in folder.iterdir() if path.is_file()} - {RECORD}


def test_only_what_is_loaded_is_fetched(run, hub, tmp_path):
    done = run("download", REPO, "--to", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "model")
    assert there(tmp_path / "model") == hub.fetched() == TOKENIZER | LOADED
    order = [path.rsplit("/", 1)[-1] for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path]
    assert order[-1] == "config.json"  # without which a folder is no checkpoint
    assert sensenova_core.load(tmp_path / "model", place=False).config.pixel_head
    first = Record.of(tmp_path / "model")
    assert first.repo == REPO and first.whole and first.times == 1 and set(first.files) == TOKENIZER | LOADED
    before = len(hub.fetched())
    hub.requests.clear()
    (tmp_path / "model/merges.txt").unlink()
    assert run("download", REPO, "--to", tmp_path / "model").returncode == 0
    assert before and hub.fetched() == {"merges.txt"}
    again = Record.of(tmp_path / "model")
    assert again.times == 2 and [name for name in first.files if again.files[name] != first.files[name]] == [
        "merges.txt"
    ]


def test_the_tokenizer_alone(run, hub, tmp_path):
    done = run("download", REPO, "--tokenizer-only", "--to", tmp_path / "tokenizer")
    assert done.returncode == 0, done.stderr
    assert there(tmp_path / "tokenizer") == hub.fetched() == TOKENIZER


def test_into_comfyui(run, tmp_path):
    done = run("download", REPO, COMFYUI_PATH=str(tmp_path))
    assert there(tmp_path / "models/sensenova/Tiny-U1.5") == TOKENIZER | LOADED, done.stderr
    shown = run("inspect", "--model", REPO, COMFYUI_PATH=str(tmp_path), HF_HUB_OFFLINE="1")
    assert "948.928K" in shown.stdout, shown.stderr
    run("download", REPO, "--tokenizer-only", COMFYUI_PATH=str(tmp_path))
    assert there(tmp_path / "models/sensenova/tokenizer") == TOKENIZER


def test_into_the_cache(run, tmp_path):
    done = run("download", REPO)
    folder = Path(done.stdout.strip())
    assert folder.is_relative_to(tmp_path / "home"), done.stderr
    assert (folder / "model.safetensors").is_symlink() and sensenova_core.load(folder, place=False)
    assert sensenova_core.load(folder.parents[1], place=False)  # refs/main was written
    shown = run("inspect", "--model", REPO, HF_HUB_OFFLINE="1")
    assert "948.928K" in shown.stdout, shown.stderr


def test_one_of_several_files(run, tmp_path):
    refused = run("download", "some/ggufs", "--to", tmp_path / "a")
    assert (
        refused.returncode == 1 and "2 files to choose from, a-Q4.gguf (0.0 GB), a-Q8.gguf (0.0 GB)" in refused.stderr
    )
    assert "sensenova download some/ggufs --file a-Q4.gguf" in refused.stderr
    assert run("download", "some/ggufs", "--file", "a-Q8.gguf", "--to", tmp_path / "b").returncode == 0
    assert there(tmp_path / "b") == {"config.json", "a-Q8.gguf"}  # no index, which names other files
    assert "no file x.gguf in it" in run("download", "some/ggufs", "--file", "x.gguf").stderr


def test_one_of_several_safetensors(run, hub, tmp_path):
    """Of U1.6 three single files in one repository, and of LoRAs two."""
    model = hub.repositories[REPO]
    single = {f"U1.6-{kind}.safetensors": model["model.safetensors"] for kind in ("bf16", "fp8", "int8")}
    native = {name: content for name, content in model.items() if name != "model.safetensors"} | single
    loras = {"U1.6-LoRA-8step.safetensors": b"a", "U1.6-LoRA-8step-V2.safetensors": b"b"}
    hub.repositories |= {"some/U1.6-Native": native, "some/U1.6-LoRAs": loras}
    refused = run("download", "some/U1.6-Native", "--to", tmp_path / "a")
    assert refused.returncode == 1 and "3 files to choose from, U1.6-bf16.safetensors (0.0 GB)" in refused.stderr
    assert "--file U1.6-bf16.safetensors, or with some/U1.6-Native/U1.6-bf16.safetensors as" in refused.stderr
    assert not hub.fetched() and not (tmp_path / "a").exists()
    for name in ("U1.6-int8.safetensors", "U1.6-fp8.safetensors"):
        hub.requests.clear()
        done = run("download", "some/U1.6-Native", "--file", name, COMFYUI_PATH=str(tmp_path))
        folder = tmp_path / "models/sensenova/U1.6-Native"
        assert done.returncode == 0 and {each for each in hub.fetched() if "safetensors" in each} == {name}
        assert is_whole(folder, "some/U1.6-Native", name) and sensenova_core.load(folder / name, place=False)
    assert not is_whole(folder, "some/U1.6-Native", "U1.6-bf16.safetensors")
    (folder / "U1.6-int8.safetensors").unlink()
    assert is_whole(folder, "some/U1.6-Native", "U1.6-fp8.safetensors")
    assert not is_whole(folder, "some/U1.6-Native", "U1.6-int8.safetensors")
    run("download", "some/U1.6-LoRAs", "--file", "U1.6-LoRA-8step-V2.safetensors", COMFYUI_PATH=str(tmp_path))
    assert there(tmp_path / "models/sensenova/loras/U1.6-LoRAs") == {"U1.6-LoRA-8step-V2.safetensors"}


def test_what_there_is_to_fetch(run, hub):
    listed = run("download", "--list").stdout
    assert "sensenova/SenseNova-U1.6-8B-MoT-Native " in listed and "SenseNova/SenseNova-U1-8B-MoT " in listed
    assert hub.requests == []


@pytest.mark.parametrize(
    "named, repo, file",
    [
        ("a/b", "a/b", None),
        (" a/b/c.gguf ", "a/b", "c.gguf"),
        ("a/b/", "a/b/", None),
        ("a", "a", None),
        ("a/b/../c", "a/b/..", "c"),  # which is no repository's name
    ],
)
def test_a_file_within_a_name(named, repo, file):
    assert split_name(named) == (repo, file)


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        ([REPO], {"HF_ENDPOINT": SHUT}, ["did not answer", "check the connection", "is kept"]),
        ([REPO], {"HF_HUB_OFFLINE": "1"}, ["did not answer", "check the connection"]),
        (["some/gated"], {}, ["accept conditions", "/some/gated", "hf auth login"]),
        (["some/missing"], {}, ["no such repository", "OWNER/NAME"]),
        (["some/broken"], {}, ["did not answer as it should", "500"]),
        (["some/empty"], {}, ["no .safetensors or .gguf file"]),
        (["some/empty", "--tokenizer-only"], {}, ["no tokenizer in it"]),
        (["nonsense"], {}, ["give it as OWNER/NAME"]),
        (["a/../b"], {}, ["give it as OWNER/NAME"]),
        (["a/.."], {"COMFYUI_PATH": "/nowhere"}, ["give it as OWNER/NAME"]),
        ([REPO, "--revision", "v9"], {}, ["no revision 'v9'"]),
        ([REPO, "--to", str(REPOSITORY / "README.md/x")], {}, ["README.md cannot be written to", "--to"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_errors_are_one_line(run, arguments, environment, words):
    done = run("download", *arguments, **environment)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("sensenova: error: "), done.stderr
    assert all(word in last for word in words), last
    assert "Traceback" not in done.stderr


def test_what_was_broken_off_goes_on(hub, run, tmp_path):
    hub.repositories[REPO] = {"model.safetensors": random.Random(0).randbytes(24 * 2**20), "config.json": b"{}"}
    folder, arguments = tmp_path / "model", ["download", REPO, "--to", str(tmp_path / "model")]
    hub.seconds = 0.005
    settings = os.environ | hub.environment(tmp_path / "home")
    process = subprocess.Popen([sys.executable, "-m", "sensenova_core", *arguments], cwd=REPOSITORY, env=settings)
    while not (parts := [path for path in folder.glob(".model.safetensors.*.part") if path.stat().st_size]):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    had = parts[0].stat().st_size
    assert not (folder / "config.json").exists() and not is_whole(folder, REPO)
    hub.seconds = 0
    hub.requests.clear()
    assert run(*arguments).returncode == 0
    ranges = [wanted for method, path, wanted in hub.requests if method == "GET" and "model.safetensors" in path]
    assert had > 0 and ranges == [f"bytes={had}-"]
    assert (folder / "model.safetensors").read_bytes() == hub.repositories[REPO]["model.safetensors"]
    assert is_whole(folder, REPO)


@pytest.mark.parametrize("name, to", [("model.safetensors", "folder"), ("config.json", "cache")])
def test_what_came_damaged_is_removed(run, hub, tmp_path, name, to):
    """Of the right size, which is all that the hub's library compares."""
    folder, target = tmp_path / "model", ["--to", tmp_path / "model"] if to == "folder" else []
    hub.spoiled = {name}
    done = run("download", REPO, *target)
    assert done.returncode == 1 and f"{REPO}: {name} came with another checksum than the hub has" in done.stderr
    kept = {path.name for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink()}
    assert (
        not kept & {name, "config.json"}
        and not list(tmp_path.rglob("*.part"))
        and "merges.txt" in kept
        and not is_whole(folder, REPO)
    )
    hub.spoiled = set()
    again = run("download", REPO, *target)
    assert again.returncode == 0 and sensenova_core.load(again.stdout.strip(), place=False), again.stderr


def test_a_checksum_is_of_its_kind(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"hello\n")
    git = "ce013625030ba8dba906f756967f9e9ca394464a"  # as `git hash-object` says
    assert Wanted(6, None, git).is_in(file) and Wanted(6).is_in(file)
    assert not Wanted(6, "0" * 64, git).is_in(file) and not Wanted(6, None, "0" * 40).is_in(file)


@pytest.mark.parametrize(
    "name",
    [
        r"..\\..\\evil.json",
        "C:evil.json",
        "a b.json",
        "naïve.safetensors",
        "con.json",
        "x\n.json",
        "-rf.json",
    ],
)
def test_names_that_are_no_plain_ones_are_refused(hub, monkeypatch, name):
    from huggingface_hub import HfApi

    listed = ["config.json", "model.safetensors", name]
    siblings = [SimpleNamespace(rfilename=each, size=2, blob_id=None, lfs=None) for each in listed]
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: SimpleNamespace(siblings=siblings))
    with pytest.raises(CheckpointError, match=r"some/odd: 1 of its files have names that are no plain ones") as error:
        files_of("some/odd")
    assert ascii(name) in str(error.value)
    siblings[-1].rfilename = "Model_v1.5-Q8.json"
    assert set(files_of("some/odd")) == {"config.json", "model.safetensors", "Model_v1.5-Q8.json"}


def test_a_folder_remembers_its_repository(tmp_path, monkeypatch):
    """Names alone can be equal."""
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    folder = tmp_path / "models/sensenova/Tiny-U1.5"
    shutil.copytree(checkpoint("tiny-u15"), folder)
    assert resolve_model(REPO) == folder  # as somebody put it there
    Record(REPO, {"vocab.json": [1, 2, None]}, whole=True).write(folder)
    assert is_whole(folder, REPO) and not is_whole(folder, "bob/Tiny-U1.5") and resolve_model(REPO) == folder
    with pytest.raises(CheckpointError, match=f"holds {REPO}, and not bob/Tiny-U1.5; rename that folder"):
        download("bob/Tiny-U1.5", folder)
    with pytest.raises(CheckpointError, match=r"sensenova download bob/Tiny-U1\.5"):
        resolve_model("bob/Tiny-U1.5")
    (folder / "vocab.json").unlink()
    assert not is_whole(folder, REPO)


def test_records(tmp_path):
    assert Record.of(tmp_path) is None and not is_whole(tmp_path, REPO)
    check_origin(tmp_path, REPO)
    for content in ("", "[]", "{}", '{"repo": "a/b", "other": 1}', '{"repo": "a/b", "files": {"x": 3}}', "\xff"):
        (tmp_path / RECORD).write_text(content, encoding="latin-1")
        assert Record.of(tmp_path) is None
    Record("A/b", {}, whole=True).write(tmp_path)
    assert is_whole(tmp_path, "a/B") and not is_whole(tmp_path, "c/b")
    with pytest.raises(CheckpointError, match="holds A/b, and not c/b"):
        check_origin(tmp_path, "c/b")


def test_nothing_is_fetched_by_loading(run, hub):
    done = run("inspect", "--model", REPO)
    assert done.returncode == 1 and f"sensenova download {REPO}" in done.stderr
    assert hub.requests == []


SCRIPT = """
import json, sys, time
from pathlib import Path
from sensenova_core.hub.download import downloading
steps = []
for done, total in downloading(sys.argv[1], Path(sys.argv[2])):
    steps.append((done, total))
    if len(sys.argv) > 3 and done > int(sys.argv[3]):
        break
print(json.dumps(steps))
"""


@pytest.fixture
def in_background(hub, tmp_path):
    def run(folder: Path, *more) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", SCRIPT, REPO, str(folder), *map(str, more)]
        settings = os.environ | hub.environment(tmp_path / "home")
        return subprocess.run(command, cwd=REPOSITORY, env=settings, capture_output=True, text=True, timeout=120)

    return run


def test_progress(in_background, hub, tmp_path):
    """Of files that end at different times: the hub's library writes the first 10 MiB of one at once."""
    sizes = {f"model-{n:05}-of-00006.safetensors": n * 8 * PIECE for n in range(1, 7)} | {"config.json": 2}
    hub.repositories[REPO] = {name: b"x" * size for name, size in sizes.items()}
    hub.seconds = 0.05
    steps, total = json.loads(in_background(tmp_path / "model").stdout), sum(sizes.values())
    assert steps[-1] == [total, total] and {each for _, each in steps} == {total}
    counts = [count for count, _ in steps]
    assert counts == sorted(counts) and len(set(counts)) > 3


def test_stopping_the_loop_stops_the_download(in_background, hub, tmp_path):
    hub.seconds = 0.1
    folder = tmp_path / "model"
    done = in_background(folder, 300_000)
    assert done.returncode == 0, done.stderr
    assert not [each for each in psutil.process_iter(["cmdline"]) if str(folder) in (each.info["cmdline"] or [])]
    assert not (folder / "config.json").exists()
    time.sleep(1)  # what was asked before it ended may still be on its way
    asked = len(hub.requests)
    time.sleep(1)
    assert len(hub.requests) == asked
    hub.seconds = 0
    assert json.loads(in_background(folder).stdout)[-1][0] > 0
    assert sensenova_core.load(folder, place=False)


def test_an_error_in_the_background(in_background, hub, tmp_path):
    hub.repositories[REPO] = {"model.safetensors": b"x" * 2**18, "config.json": b"{}"}
    listed = hub.repositories[REPO]
    del hub.repositories[REPO]
    done = in_background(tmp_path / "model")
    assert "CheckpointError" in done.stderr and "no such repository" in done.stderr
    assert listed


SLOW = {"model.safetensors": random.Random(0).randbytes(4 * 2**20), "config.json": b"{}"}


@pytest.fixture
def slow_download(hub, tmp_path):
    """(arguments) -> a download that goes on for long, once its first bytes are there."""
    hub.repositories[REPO], hub.seconds, started = dict(SLOW), 2.0, []

    def start(*arguments: str) -> subprocess.Popen:
        settings = os.environ | hub.environment(tmp_path / "home") | {"COMFYUI_PATH": ""}
        command = [sys.executable, "-m", "sensenova_core", "download", REPO, *map(str, arguments)]
        started.append(subprocess.Popen(command, cwd=REPOSITORY, env=settings, stdout=subprocess.PIPE))
        while not any("resolve" in path and "model" in path for _, path, _ in hub.requests):
            assert started[-1].poll() is None
            time.sleep(0.02)
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "to", [["--to", "FOLDER"], ["--to", "FOLDER/../FOLDER"], []], ids=["folder", "the same", "cache"]
)
def test_two_downloads_at_once_say_so(slow_download, run, hub, tmp_path, to):
    where = [each.replace("FOLDER", str(tmp_path / "model")) for each in to]
    first = slow_download(*[each.replace("/../" + str(tmp_path / "model"), "") for each in where])
    second = run("download", REPO, *[each.replace(f"/../{tmp_path}/model", "/../model") for each in where])
    assert second.returncode == 1 and len(second.stderr.strip().splitlines()) == 1
    assert "another process is downloading to it; wait for it, or end it: what has come is kept" in second.stderr
    first.kill()
    first.wait()
    hub.seconds = 0
    assert run("download", REPO, *where).returncode == 0  # its lock has ended with it


@pytest.mark.parametrize("way", ["killed", "ended", "forked"])
def test_a_download_ends_with_its_parent(hub, tmp_path, way):
    """forked: a child of the parent goes on, with the parent's end of the pipe."""
    hub.repositories[REPO], hub.seconds = dict(SLOW), 0.3
    folder = tmp_path / "model"
    script = "import os, sys, time; from pathlib import Path; from sensenova_core.hub.download import downloading\n"
    script += "for done, total in downloading(sys.argv[1], Path(sys.argv[2])):\n"
    script += "    if any(Path(sys.argv[2]).glob('.model*.part')):\n"
    script += {
        "killed": "        os.kill(os.getpid(), 9)",
        "ended": "        os._exit(0)",
        "forked": "        (os.fork() or time.sleep(8) or os._exit(0)) and os.kill(os.getpid(), 9)",
    }[way]
    command = [sys.executable, "-c", script, REPO, str(folder)]
    subprocess.run(command, cwd=REPOSITORY, env=os.environ | hub.environment(tmp_path / "home"), timeout=60)
    deadline = time.monotonic() + 6
    while _downloading_to(folder):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert list(folder.glob(".model.safetensors.*.part")) and not (folder / "model.safetensors").exists()


def _downloading_to(folder: Path) -> list[psutil.Process]:
    found = psutil.process_iter(["cmdline"])
    return [each for each in found if {str(folder), "download"} <= set(each.info["cmdline"] or [])]


def test_parts_of_other_versions_are_removed_when_all_is_there(run, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    others = {".config.json.mine.part", "movie.part", ".other.safetensors.0a1b2c3d4e5f.part"}
    for name in (*others, ".model.safetensors.0a1b2c3d4e5f.part", ".config.json.1234.part"):
        (folder / name).touch()
    assert run("download", REPO, "--to", folder).returncode == 0
    assert {path.name for path in folder.glob("*.part")} | {path.name for path in folder.glob(".*.part")} == others
