"""The Self-Test node on a real server."""

import pytest
import torch

from sensenova_core import selftest

NODE = {
    "1": {"class_type": "SenseNovaCoreSelfTest", "inputs": {}},
    "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
}


@pytest.fixture(scope="module")
def rows() -> list[str]:
    found = list(selftest.outcomes(selftest.all_checks(torch.device("cpu"))))
    return [f"{each.name} {each.verdict}" for each in found]


def test_it_tells_what_is_right_and_runs_anew(client, rows):
    for _ in range(2):
        run = client.run(NODE)
        assert run.outcome == "execution_success", run.error
        [report] = run.outputs["2"]["text"]
        lines = [" ".join(line.split()) for line in report.splitlines()]
        for name, verdict in (row.rsplit(" ", 1) for row in rows if row.endswith(selftest.RIGHT)):
            assert any(name in line and line.endswith(verdict) for line in lines), name
        assert report.startswith("cpu: ") and run.texts("1")[-1] == lines[-1] and lines[-1].startswith("all ")
        [picture] = client.images(run, "1")
        assert picture.width > 1000 and picture.height > 22 * len(rows)
        assert {data["max"] for data in run.of("progress", "1")} == {len(rows)}
