"""How much system memory a plan may count on: the machine's, or what the control groups above this process leave."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from sensenova_core.memory import system_memory

GIB = 2**30
MACHINE = 100 * GIB


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """With 100 GiB to take."""
    monkeypatch.setattr(system_memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=MACHINE))


@pytest.fixture
def available(tmp_path):
    """(groups, membership) -> what is found. groups: path -> its files; membership: what /proc/self/cgroup says."""

    def found(groups: dict[str, dict[str, object]], membership: str) -> int:
        for path, files in groups.items():
            folder = tmp_path / "cgroup" / path
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                (folder / name).write_text(f"{content}\n", encoding="utf-8")
        (tmp_path / "membership").write_text(membership, encoding="utf-8")
        return system_memory.available_bytes(tmp_path / "cgroup", tmp_path / "membership")

    return found


def second(limit: object, used: object, stat: str = "anon 1\nfile 2") -> dict[str, object]:
    """A group of version 2."""
    return {"memory.max": limit, "memory.current": used, "memory.stat": stat}


def first(limit: object, used: object, stat: str = "cache 1") -> dict[str, object]:
    """A group of version 1."""
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used, "memory.stat": stat}


def test_without_control_groups_it_is_the_machines(tmp_path):
    assert system_memory.available_bytes(tmp_path / "nowhere", tmp_path / "nothing") == MACHINE


def test_this_machine_has_some():
    assert 0 <= system_memory.available_bytes() <= MACHINE


def test_a_container_of_version_2(available):
    assert available({"app": second(8 * GIB, 3 * GIB)}, "0::/app\n") == 5 * GIB


def test_a_container_that_sees_its_own_group_as_the_root(available):
    assert available({"": second(8 * GIB, 3 * GIB)}, "0::/\n") == 5 * GIB


def test_a_container_of_version_1(available):
    groups = {"memory/docker/1": first(8 * GIB, 3 * GIB), "cpu/docker/1": first(GIB, GIB)}
    assert available(groups, "12:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n1:name=systemd:/x\n") == 5 * GIB


def test_both_versions_at_once(available):
    """As many machines have it: version 2 beside, and without a limit."""
    groups = {"memory/box": first(8 * GIB, 3 * GIB), "unified/box": second(GIB, GIB)}
    assert available(groups, "4:memory:/box\n0::/box\n") == 5 * GIB


@pytest.mark.parametrize("tightest", range(3))
def test_the_tightest_of_nested_groups_counts(available, tightest):
    limits = [40 * GIB, 40 * GIB, 40 * GIB]
    limits[tightest] = 10 * GIB
    groups = {path: second(limit, GIB) for path, limit in zip(("a", "a/b", "a/b/c"), limits, strict=True)}
    assert available(groups, "0::/a/b/c\n") == 9 * GIB


def test_groups_beside_this_one_do_not_count(available):
    groups = {"a": second(40 * GIB, GIB), "b": second(GIB, GIB), "a/other": second(GIB, GIB)}
    assert available(groups, "0::/a\n") == 39 * GIB


def test_the_machine_may_have_less_than_the_group_allows(available):
    assert available({"app": second(400 * GIB, GIB)}, "0::/app\n") == MACHINE


@pytest.mark.parametrize("limit", ["max", 2**63 - 4096, 2**60])
def test_no_limit_is_none(available, limit):
    assert available({"app": second(limit, 3 * GIB)}, "0::/app\n") == MACHINE
    assert available({"memory/app": first(limit, 3 * GIB)}, "4:memory:/app\n") == MACHINE


def test_pages_of_files_can_be_taken(available):
    """The weights' own pages are of this kind once they have been read."""
    stat = f"anon {GIB}\nfile {3 * GIB}\ninactive_file {2 * GIB}\nactive_file {GIB}\nslab 5"
    assert available({"app": second(8 * GIB, 7 * GIB, stat)}, "0::/app\n") == 4 * GIB


def test_a_group_that_is_over_its_limit_has_nothing(available):
    assert available({"app": second(GIB, 2 * GIB)}, "0::/app\n") == 0


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"memory.max": 8 * GIB},
        {"memory.current": GIB},
        second("", GIB),
        second("many", GIB),
        second(8 * GIB, "some"),
    ],
    ids=str,
)
def test_files_that_say_nothing_limit_nothing(available, files):
    assert available({"app": files}, "0::/app\n") == MACHINE


@pytest.mark.parametrize("stat", ["", "inactive_file", "inactive_file many\n", "a b c\n"], ids=repr)
def test_a_broken_stat_counts_no_pages(available, stat):
    assert available({"app": second(8 * GIB, 3 * GIB, stat)}, "0::/app\n") == 5 * GIB


@pytest.mark.parametrize("membership", ["", "\n", "nonsense\n", "0::\n", "4:cpu:/x\n"], ids=repr)
def test_a_membership_that_says_nothing(available, membership):
    assert available({"app": second(GIB, GIB)}, membership) == MACHINE


def test_a_group_that_is_not_mounted_here(available):
    """A container may be told of its path on the host."""
    assert available({"": second(8 * GIB, 3 * GIB)}, "0::/kubepods/pod1/box\n") == 5 * GIB


def test_a_colon_in_the_name_of_a_group(available):
    assert available({"a:b": second(8 * GIB, 3 * GIB)}, "0::/a:b\n") == 5 * GIB


def test_what_cannot_be_read_is_as_if_it_were_not_there(available, tmp_path):
    assert available({"app": second(8 * GIB, 3 * GIB)}, "0::/app\n") == 5 * GIB
    limit: Path = tmp_path / "cgroup" / "app" / "memory.max"
    limit.unlink()
    limit.mkdir()
    assert system_memory.available_bytes(tmp_path / "cgroup", tmp_path / "membership") == MACHINE
