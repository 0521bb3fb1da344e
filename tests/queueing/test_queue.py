"""`sensenova queue` through faults of servers and of its own, with stand-ins for ComfyUI."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from sensenova_core.cli import main
from sensenova_core.queueing import following, sending, worker
from sensenova_core.queueing import server as queueing_server
from sensenova_core.queueing.record import PART
from tests.support.stand_in import WORKFLOW, StandIn, picture_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def asked_often(monkeypatch):
    monkeypatch.setattr(following, "_HEAR_SECONDS", 0.01)
    monkeypatch.setattr(following, "_DEAF_ASK_SECONDS", 0.02)


@pytest.fixture
def server():
    with StandIn() as running:
        yield running


class Batch:
    """A workflow and a table of so many jobs, and the folder that they go to."""

    def __init__(self, folder: Path, jobs: int):
        self.workflow, self.table, self.output = folder / "workflow.json", folder / "table.csv", folder / "out"
        self.workflow.write_text(json.dumps(WORKFLOW))
        self.jobs = [(f"prompt {number}", number) for number in range(jobs)]
        self.write(self.jobs)

    def write(self, jobs) -> None:
        self.table.write_text("prompt,seed\n" + "".join(f"{prompt},{seed}\n" for prompt, seed in jobs))

    def arguments(self, *servers: StandIn, **more) -> list[str]:
        flags = [text for name, value in more.items() for text in ("--" + name.replace("_", "-"), *value)]
        urls = [server.url for server in servers]
        return ["queue", str(self.workflow), str(self.table), "--output", str(self.output), *flags, "--server", *urls]

    def run(self, *servers: StandIn, **more) -> int:
        return main(self.arguments(*servers, **more))

    def started(self, *servers: StandIn) -> subprocess.Popen:
        command = [sys.executable, "-m", "sensenova_core", *self.arguments(*servers)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def record(self) -> list[dict]:
        path = self.output / "jobs.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for(self, jobs: int) -> None:
        until(lambda: len(self.record()) >= jobs)

    def check(self) -> None:
        """Every job has one result, of its own settings, and the folder has nothing else."""
        record = self.record()
        done = {line["line"]: line for line in record if not line["error"]}
        assert len(done) == len(self.jobs) == sum(not line["error"] for line in record)
        files = {"jobs.jsonl", ".sensenova-queue.lock"}
        for number, (prompt, seed) in enumerate(self.jobs, 2):
            picture, text = (self.output / name for name in done[number]["files"])
            with Image.open(picture) as made:
                nodes = json.loads(made.info["prompt"])
            assert (nodes["1"]["inputs"]["prompt"], nodes["2"]["inputs"]["seed"]) == (prompt, seed)
            assert picture.name.startswith(f"{number:04d}_") and text.read_text() == f"drew {prompt}"
            files |= {picture.name, text.name}
        assert {path.name for path in self.output.iterdir()} - {".sensenova-queue.jsonl"} == files


def until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it has not come to that in 30 s"
        time.sleep(0.005)


def test_every_job_is_done_once_and_not_again(tmp_path, server, capsys):
    batch = Batch(tmp_path, 5)
    assert batch.run(server) == 0
    batch.check()
    assert "5 of 5 jobs are done" in capsys.readouterr().out
    assert batch.run(server) == 0
    batch.jobs.insert(0, ("prompt new", 99))
    batch.write([("prompt new", 99), *batch.jobs[1:]])
    assert batch.run(server) == 0
    assert sorted(server.drawn) == sorted(batch.jobs)


def test_a_dry_run_says_what_would_be_sent_and_writes_nothing(tmp_path, server, capsys):
    batch = Batch(tmp_path, 2)
    before = sorted(tmp_path.rglob("*"))
    assert batch.run(server, dry_run=()) == 0
    said = capsys.readouterr().out
    assert 'line 3:\n  Prompt.prompt = "prompt 1" (was "a star")\n  Sampler v1.5.seed = 1 (was 1)\n' in said
    assert f"2 jobs, checked with {server.url}; nothing was sent" in said
    server.kill()
    assert batch.run(server, dry_run=()) == 0
    assert "2 jobs, not checked" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before and not server.drawn


def test_a_job_that_fails_is_recorded_and_the_next_goes_on(tmp_path, server, capsys):
    batch = Batch(tmp_path, 3)
    server.errors["prompt 1"] = "no memory"
    assert batch.run(server) == 1
    assert "  line 3: Draw (2): no memory\n" in capsys.readouterr().err
    assert [line["error"] for line in batch.record()] == [None, "Draw (2): no memory", None]
    server.errors.clear()
    assert batch.run(server) == 1  # still failed
    assert len(server.drawn) == 2
    assert batch.run(server, retry_failed=()) == 0
    batch.check()
    assert len(server.drawn) == 3


@pytest.mark.parametrize("times", [1, 2])
def test_what_is_interrupted_on_the_server_is_drawn_once_more(tmp_path, capsys, times):
    batch = Batch(tmp_path, 2)
    statuses: list[int] = []
    with StandIn(60) as server:
        done = threading.Thread(target=lambda: statuses.append(batch.run(server)))
        done.start()
        for _ in range(times):
            until(lambda: server.queue and server.queue[0][0] not in server.cancelled)
            server.cancelled.append(server.queue[0][0])
        until(lambda: len(server.history) == times)
        server.seconds = 0
        done.join(30)
        said = capsys.readouterr().err
        assert f"line 2 was interrupted on {server.url}; it is drawn once more" in said
        if times == 1:
            assert statuses == [0]
            batch.check()
            assert server.drawn == batch.jobs
        else:
            assert statuses == [1] and "line 2: it was interrupted on the server" in said
            assert server.drawn == batch.jobs[1:]


def test_what_the_server_refuses_fails_its_job_alone(tmp_path, server):
    batch = Batch(tmp_path, 2)
    server.answers["/prompt"] = [400]
    assert batch.run(server) == 1
    assert [bool(line["error"]) for line in batch.record()] == [True, False]


def test_errors_of_the_server_are_waited_out(tmp_path, server, monkeypatch):
    monkeypatch.setattr(worker, "_LONGEST_PAUSE", 0.01)
    batch = Batch(tmp_path, 3)
    server.answers |= {"/prompt": [500, 503], "/queue": [502] * 3, "/view": [500], "/object_info": [502]}
    assert batch.run(server) == 0
    batch.check()
    assert len(server.drawn) == 3


def test_a_server_that_only_has_errors_is_given_up_job_by_job(tmp_path, server, monkeypatch, capsys):
    monkeypatch.setattr(worker, "_LONGEST_PAUSE", 0.01)
    batch = Batch(tmp_path, 1)
    server.answers["/prompt"] = [500] * 50
    assert batch.run(server) == 1
    assert "the server keeps answering 500" in capsys.readouterr().err


def test_a_server_that_is_killed_and_comes_back_loses_nothing(tmp_path):
    batch = Batch(tmp_path, 6)
    with StandIn(0.1) as server:
        client = batch.started(server)
        for jobs in (1, 3):
            batch.wait_for(jobs)
            until(lambda: server.queue)
            server.kill()
            time.sleep(0.3)
            server.__enter__()
        said, errors = client.communicate(timeout=60)
    assert client.returncode == 0, said + errors
    batch.check()
    assert sorted(server.drawn) == sorted(batch.jobs)


def test_a_killed_client_goes_on_with_what_the_server_has_done_meanwhile(tmp_path):
    batch = Batch(tmp_path, 4)
    with StandIn(0.3) as server:
        client = batch.started(server)
        batch.wait_for(1)
        until(lambda: server.queue)
        client.kill()
        client.communicate()
        until(lambda: not server.queue)
        assert batch.run(server) == 0
        batch.check()
        assert sorted(server.drawn) == sorted(batch.jobs)


def test_a_killed_client_follows_the_job_that_still_runs(tmp_path):
    batch = Batch(tmp_path, 2)
    with StandIn(1.5) as server:
        client = batch.started(server)
        until(lambda: server.queue)
        client.kill()
        client.communicate()
        server.seconds = 0.5
        assert batch.run(server) == 0
        batch.check()
        assert sorted(server.drawn) == sorted(batch.jobs)


def test_results_that_were_noted_are_fetched_though_client_and_server_were_killed(tmp_path, server):
    batch = Batch(tmp_path, 1)
    assert batch.run(server) == 0
    for path in batch.output.iterdir():
        if path.name != ".sensenova-queue.jsonl":
            path.unlink()
    server.kill()
    with server:
        assert batch.run(server) == 0
    batch.check()
    assert len(server.drawn) == 1


def test_a_result_that_was_deleted_is_drawn_again(tmp_path, server):
    batch = Batch(tmp_path, 2)
    assert batch.run(server) == 0
    server.kill()
    (batch.output / batch.record()[0]["files"][0]).unlink()
    with server:
        assert batch.run(server) == 0
    assert server.drawn == [batch.jobs[0], batch.jobs[1], batch.jobs[0]]


def test_another_job_s_picture_under_the_same_name_is_not_taken(tmp_path, server):
    """The server's output folder was emptied, and its names begin anew."""
    batch = Batch(tmp_path, 2)
    assert batch.run(server) == 0
    shutil.rmtree(batch.output)
    first, second = sorted(server.files)
    server.files[first] = server.files[second]
    assert batch.run(server) == 0
    batch.check()
    assert len(server.drawn) == 3


class WithABorder(StandIn):
    """Its workflow saves another picture too, which no column changes: it is drawn once, and shown for every job."""

    def _drawn(self, id: str, nodes: dict) -> dict:
        found = super()._drawn(id, nodes)
        self.files.setdefault("border.png", picture_of(nodes))
        found["outputs"]["9"] = {"images": [{"filename": "border.png", "subfolder": "", "type": "output"}]}
        return found


def test_a_picture_that_the_server_drew_for_an_earlier_job_is_taken_where_no_column_changes_it(tmp_path):
    batch = Batch(tmp_path, 3)
    border = {"8": {"class_type": "Text", "inputs": {"prompt": "a border"}}, "9": {"class_type": "Save"}}
    border["9"]["inputs"] = {"images": ["8", 0]}
    batch.workflow.write_text(json.dumps(WORKFLOW | border))
    prompt = ["--set", "1.prompt=prompt"]
    with WithABorder() as server:
        assert main(batch.arguments(server) + prompt) == 0
        shutil.rmtree(batch.output)
        assert main(batch.arguments(server) + prompt) == 0
        assert sorted(server.drawn) == sorted(batch.jobs)
        shutil.rmtree(batch.output)
        changed = WORKFLOW | {"8": {"class_type": "Text", "inputs": {"prompt": "a frame"}}, "9": border["9"]}
        server.files["border.png"] = picture_of(changed)  # under a name that was given anew
        assert main(batch.arguments(server) + prompt) == 0
        assert len(server.drawn) == 6


def test_a_file_that_the_server_has_lost_is_drawn_again(tmp_path, server):
    batch = Batch(tmp_path, 2)
    server.answers["/view"] = [404]
    assert batch.run(server) == 0
    batch.check()
    assert len(server.drawn) == 3


def test_a_job_that_ends_the_server_every_time_is_given_up(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sending, "LOSSES", 1)
    batch = Batch(tmp_path, 1)
    with StandIn(60) as server:
        done = threading.Thread(target=lambda: statuses.append(batch.run(server)))
        statuses: list[int] = []
        done.start()
        while done.is_alive():
            if server.queue:
                server.kill()
                server.__enter__()
            time.sleep(0.01)
    assert statuses == [1] and "servers have lost it" in capsys.readouterr().err


def test_two_servers_share_the_jobs_and_a_dead_one_s_go_to_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "_GRACE_SECONDS", 0.2)
    batch = Batch(tmp_path, 8)
    with StandIn(0.1) as first, StandIn(0.1) as second:
        done = threading.Thread(target=lambda: batch.run(first, second))
        done.start()
        until(lambda: first.drawn and second.drawn and first.queue)
        first.kill()
        done.join(60)
        assert not done.is_alive()
        batch.check()
        assert sorted(first.drawn + second.drawn) == sorted(batch.jobs)


def test_a_server_that_comes_back_is_relieved_of_a_job_that_another_has(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "_GRACE_SECONDS", 0.1)
    batch = Batch(tmp_path, 2)
    with StandIn(60) as first, StandIn(0.1) as second:
        done = threading.Thread(target=lambda: batch.run(first, second))
        done.start()
        until(lambda: second.drawn and first.queue)
        [(id, _)] = first.queue
        second.seconds = 3
        # Away without having lost anything.
        first.answers |= {"/queue": [502] * 3, f"/history/{id}": [502]}
        until(lambda: first.cancelled == [id])
        done.join(60)
        assert not done.is_alive() and not first.drawn
        batch.check()


def test_a_single_job_goes_to_the_less_busy_server(tmp_path):
    batch = Batch(tmp_path, 1)
    with StandIn(0.3) as first, StandIn() as second:
        first.queue += [("of somebody else", WORKFLOW), ("and another", WORKFLOW)]
        assert batch.run(first, second) == 0
        assert second.drawn == batch.jobs


def test_servers_that_stay_away_end_it_with_what_is_left(tmp_path, server, capsys):
    batch = Batch(tmp_path, 2)
    server.seconds = 60
    done = threading.Thread(target=lambda: statuses.append(batch.run(server, wait=["0.3"])))
    statuses: list[int] = []
    done.start()
    until(lambda: server.queue)
    server.kill()
    done.join(30)
    assert statuses == [1]
    said = capsys.readouterr().err
    assert f"{server.url} did not answer for 0.3 s" in said and "2 are left; run the same command to go on" in said
    assert batch.run(server, wait=["0"]) == 1
    assert f"no server answers: {server.url}" in capsys.readouterr().err


def test_what_was_broken_off_is_removed_and_other_folders_are_not_looked_through(tmp_path, server):
    batch = Batch(tmp_path, 1)
    ours = [batch.output / name for name in ("0002_0123abcd_3_1.png", "0002_0123abcd_7/image_1.png")]
    others = [batch.output / name for name in ("photos/a.png", "0002_0123abcd_7/deeper/a.png", "2024_holidays_1/b.png")]
    parts = [path.with_name(path.name + PART) for path in (*ours, *others)]
    for part in parts:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    assert batch.run(server) == 0
    assert [part.exists() for part in parts] == [False] * len(ours) + [True] * len(others)


def test_one_client_at_a_time_uses_a_folder(tmp_path, capsys):
    batch = Batch(tmp_path, 1)
    with StandIn(0.5) as server:
        client = batch.started(server)
        until(lambda: server.queue)
        assert batch.run(server) == 1
        assert "--output: another `sensenova queue` saves into" in capsys.readouterr().err
        client.communicate(timeout=30)
        batch.check()


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to all processes of a console")
def test_ctrl_c_cancels_its_own_job_and_nobody_else_s(tmp_path):
    batch = Batch(tmp_path, 2)
    with StandIn(60) as server:
        server.queue.append(("of somebody else", WORKFLOW))
        client = batch.started(server)
        until(lambda: len(server.queue) == 2)
        time.sleep(0.5)  # that it has an answer
        client.send_signal(signal.SIGINT)
        _, errors = client.communicate(timeout=30)
        assert client.returncode == 130 and "2 are left; run the same command to go on" in errors
        assert len(server.cancelled) == 1 and [id for id, _ in server.queue] == ["of somebody else"]
        server.cancelled.clear()
        server.seconds = 0
        assert batch.run(server) == 0
        batch.check()


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to all processes of a console")
def test_a_job_that_ctrl_c_has_interrupted_is_done_the_next_time(tmp_path):
    batch = Batch(tmp_path, 2)
    with StandIn(60) as server:
        client = batch.started(server)
        until(lambda: server.queue)
        time.sleep(0.5)
        client.send_signal(signal.SIGINT)
        client.communicate(timeout=30)
        until(lambda: server.history)
        server.seconds = 0
        assert batch.run(server) == 0
        batch.check()
        assert [line["prompt_id"] == line["job"] for line in batch.record()] == [False, True]


def test_pictures_are_sent_once_under_a_name_by_content(tmp_path, server):
    batch = Batch(tmp_path, 1)
    (tmp_path / "cat.png").write_bytes(b"a cat")
    batch.table.write_text("prompt,image\nx,cat.png\ny,cat.png\nz,example.png\n")
    assert batch.run(server) == 0
    assert list(server.uploaded.values()) == [b"a cat"]
    [name] = server.uploaded
    made = [json.loads(Image.open(io.BytesIO(content)).info["prompt"]) for content in server.files.values()]
    images = [nodes["2"]["inputs"]["image"] for nodes in made]
    assert images == [name, name, "example.png"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--server", "http://"], "is no address; give one such as http://127.0.0.1:8188"),
        (["--server", "a:1", "http://A:1/"], "--server http://a:1 http://A:1 is one server, given twice"),
        (["--server", "a", "a:80"], "is one server, given twice"),
        (["--server", "localhost:1", "127.0.0.1:1"], "--server http://localhost:1 http://127.0.0.1:1 is one server"),
        (["--wait", "-1"], "--wait -1.0"),
    ],
)
def test_a_wrong_flag_is_named(tmp_path, capsys, arguments, said):
    batch = Batch(tmp_path, 1)
    assert main(["queue", str(batch.workflow), str(batch.table), *arguments]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "urls",
    [
        ["http://127.0.0.1:1", "http://localhost:2"],
        ["http://127.0.0.1:1/a", "http://localhost:1/b"],
        ["http://127.0.0.1:1", "http://127.0.0.2:1"],
        ["https://first.example", "https://second.example"],  # a proxy's names of two servers
    ],
)
def test_two_servers_are_not_taken_for_one(urls, monkeypatch):
    known = {"first.example": "192.0.2.1", "second.example": "192.0.2.1", "localhost": "127.0.0.1"}
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port: [(2, 1, 6, "", (known.get(host, host), 0))])
    assert queueing_server.one_server(urls) is None


def test_a_node_that_the_server_lacks_is_named_before_anything_is_sent(tmp_path, server, capsys):
    batch = Batch(tmp_path, 1)
    batch.workflow.write_text(json.dumps(WORKFLOW | {"8": {"class_type": "Upscale", "inputs": {}}}))
    assert batch.run(server) == 1
    assert "the server has no node Upscale" in capsys.readouterr().err and not batch.output.exists()


@pytest.mark.parametrize("package", ["httpx", "websocket"])
def test_a_missing_package_is_named_with_how_to_install_it(tmp_path, server, capsys, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert Batch(tmp_path, 1).run(server) == 1
    named = {"websocket": "websocket-client"}.get(package, package)
    assert f"the package {named} is" in (said := capsys.readouterr().err) and "-m pip install" in said


def test_a_server_under_two_names_loses_no_job(tmp_path, monkeypatch):
    """Each name is taken for a server; one of them has a hiccup while the other's job is there."""
    monkeypatch.setattr(queueing_server, "one_server", lambda urls: None)
    monkeypatch.setattr(worker, "_LONGEST_PAUSE", 0.05)
    batch = Batch(tmp_path, 6)
    with StandIn(0.3) as server:
        done = threading.Thread(target=lambda: statuses.append(main([*batch.arguments(server), other_name])))
        other_name, statuses = server.url.replace("127.0.0.1", "localhost"), []
        done.start()
        for jobs in range(1, 4):
            until(lambda jobs=jobs: len(server.drawn) >= jobs and len(server.queue) == 2)
            server.answers["/queue"] = [503, 503]
        done.join(60)
        assert statuses == [0] and not server.cancelled
        batch.check()
        assert sorted(server.drawn) == sorted(batch.jobs)
