"""`sensenova queue` with a server that stands in for ComfyUI: jobs, failures, and what its user has written wrong."""

import io
import json
import sys
import threading

import pytest
from PIL import Image

from sensenova_core.cli import main
from tests.support.batch import Batch, until
from tests.support.stand_in import WORKFLOW, StandIn


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


def test_one_client_at_a_time_uses_a_folder(tmp_path, capsys):
    batch = Batch(tmp_path, 1)
    with StandIn(0.5) as server:
        client = batch.started(server)
        until(lambda: server.queue)
        assert batch.run(server) == 1
        assert "--output: another `sensenova queue` saves into" in capsys.readouterr().err
        client.communicate(timeout=30)
        batch.check()


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
