"""`sensenova queue` ended and started again: what is done already is found, whoever has it."""

import json
import os
import shutil
import signal
import time

import pytest

from sensenova_core.cli import main
from sensenova_core.queueing.record import PART
from tests.support.batch import Batch, until
from tests.support.stand_in import WORKFLOW, StandIn, picture_of


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
