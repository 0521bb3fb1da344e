"""`sensenova queue` through faults of servers, and with several."""

import socket
import threading
import time

import pytest

from sensenova_core.cli import main
from sensenova_core.queueing import sending, worker
from sensenova_core.queueing import server as queueing_server
from tests.support.batch import Batch, until
from tests.support.stand_in import WORKFLOW, StandIn


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
