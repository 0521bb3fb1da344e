"""Workflows and tables: which column changes which input, and what a cell becomes."""

import json
from copy import deepcopy
from pathlib import Path

import pytest

from sensenova_core.errors import SettingsError
from sensenova_core.queueing.jobs import make_jobs
from sensenova_core.queueing.node_types import NodeTypes
from sensenova_core.queueing.table import read_table
from sensenova_core.queueing.workflow import mapped, read_workflow
from tests.support.stand_in import TYPES, WORKFLOW

KNOWN = NodeTypes(TYPES)


def written(folder: Path, content: object, name: str = "workflow.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def jobs_of(folder: Path, text: str, *, sets=(), ignored=(), types=KNOWN, workflow=WORKFLOW, name="table.csv"):
    read = read_workflow(written(folder, workflow))
    table = read_table(written(folder, text, name))
    columns = mapped(read, table.columns, types, sets=sets, ignored=ignored)
    return make_jobs(read, table, types, columns=columns)


def inputs(job, node: str) -> dict:
    return job.nodes[node]["inputs"]


def error_of(*arguments, **settings) -> str:
    with pytest.raises(SettingsError) as caught:
        jobs_of(*arguments, **settings)
    return str(caught.value)


def test_columns_map_by_the_name_of_an_input_that_one_node_has(tmp_path):
    [job] = jobs_of(tmp_path, "prompt,seed,cfg,crop\n a blue ring ,7,3.5,yes\n")
    assert inputs(job, "1")["prompt"] == " a blue ring "
    assert inputs(job, "2") == WORKFLOW["2"]["inputs"] | {"seed": 7, "cfg": 3.5, "crop": True}
    assert job.line == 2 and job.values["seed"] == "7"


@pytest.mark.parametrize("name", ["2.seed", "Sampler v1.5.seed", "sampler V1.5.seed", "Draw.seed"])
def test_a_node_goes_by_id_title_or_class(tmp_path, name):
    assert inputs(jobs_of(tmp_path, f"{name}\n7\n")[0], "2")["seed"] == 7
    assert inputs(jobs_of(tmp_path, "n\n7\n", sets=[f"{name}=n"])[0], "2")["seed"] == 7


def test_a_link_gives_way_to_a_value_and_only_a_node_that_is_there_is_linked_to(tmp_path):
    assert inputs(jobs_of(tmp_path, "text\nhello\n")[0], "2")["text"] == "hello"
    linked = jobs_of(tmp_path, '{"text": ["3", 0]}', name="t.jsonl")
    assert inputs(linked[0], "2")["text"] == ["3", 0]
    assert "line 1, column text: there is no node '9'" in error_of(tmp_path, '{"text": ["9", 0]}', name="t.jsonl")


def test_a_name_of_several_nodes_is_an_error_that_names_them(tmp_path):
    twice = WORKFLOW | {"7": deepcopy(WORKFLOW["1"])}
    words = error_of(tmp_path, "prompt\nx\n", workflow=twice)
    assert "1.prompt (Prompt), 7.prompt (Prompt)" in words and "--set 1.prompt=prompt" in words
    assert "several nodes: 1 (Text), 7 (Text)" in error_of(tmp_path, "Prompt.prompt\nx\n", workflow=twice)
    assert inputs(jobs_of(tmp_path, "7.prompt\nx\n", workflow=twice)[0], "7")["prompt"] == "x"


@pytest.mark.parametrize(
    ("table", "settings", "said"),
    [
        ("promt\nx\n", {}, "column 'promt' is no input of this workflow; did you mean prompt"),
        ("notes\nx\n", {}, "--ignore notes"),
        ("Samplr.seed\n1\n", {}, "no node for 'Samplr.seed'; did you mean Sampler v1.5"),
        ("Draw.sed\n1\n", {}, "node 'Draw' has no input 'sed'; its inputs are text, seed"),
        ("n\n1\n", {"sets": ["Draw.seed=m"]}, "--set Draw.seed=m: no column 'm'"),
        ("n\n1\n", {"sets": ["Draw.seeed=n"]}, "--set Draw.seeed=n: node 'Draw' has no input"),
        ("n\n1\n", {"sets": ["Draw.seed"]}, "--set Draw.seed: expected NODE.input=column"),
        ("seed\n1\n", {"ignored": ["sed"]}, "--ignore sed: no such column; did you mean seed"),
        ("seed,2.seed\n1,2\n", {}, "columns 'seed' and '2.seed' both change Sampler v1.5.seed"),
    ],
)
def test_a_wrong_name_is_named_with_the_remedy(tmp_path, table, settings, said):
    assert said in error_of(tmp_path, table, **settings)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("prompt,seed\nx,1\ny,seven\n", "line 3, column seed: 'seven' is no whole number"),
        ('prompt,seed\n"x\ny",1\nz,7.5\n', "line 4, column seed: '7.5' is no whole number"),
        ("seed\n1001\n", "line 2, column seed: 1001 is out of range; give 0 to 1000"),
        ("cfg\nnan\n", "line 2, column cfg: 'nan' is no number"),
        ("crop\nperhaps\n", "line 2, column crop: 'perhaps' is neither true nor false"),
        ("sampler\neuller\n", "line 2, column sampler: 'euller' is none of its options; choose one of euler, heun"),
        ("image\nnowhere.png\n", "line 2, column image: no file 'nowhere.png'"),
        ("images\nx\n", "line 2, column images: a IMAGE comes over a link"),
    ],
)
def test_a_bad_cell_names_line_and_column(tmp_path, table, said):
    assert said in error_of(tmp_path, table)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('{"prompt": "fine"}\n{"prompt": "cut emoji \\ud83d"}', r"line 2, column prompt: '\ud83d' is half a letter"),
        ('{"prompt": "whole emoji \\ud83d\\ude00"}\n{"text": "\\udc00"}', r"line 2, column text: '\udc00' is half"),
        ('{"prompt": NaN}', "line 1, column prompt: nan is no finite number"),
        ('{"extra": {"sizes": [1, Infinity]}}', "line 1, column extra: {'sizes': [1, inf]} is no finite number"),
        ('{"extra": "NaN"}', "line 1, column extra: nan is no finite number"),
        ('{"extra": "{\\"a\\": 1}"}\n{"extra": {"\\ud800": 1}}', "line 2, column extra: '\\ud800' is half a letter"),
    ],
)
def test_a_cell_that_no_server_can_be_sent_names_line_and_column(tmp_path, table, said):
    workflow = deepcopy(WORKFLOW)
    workflow["3"]["inputs"]["extra"] = None
    assert said in error_of(tmp_path, table, name="t.jsonl", workflow=workflow)


def test_what_no_server_can_be_sent_is_refused_in_a_workflow_too(tmp_path):
    workflow = deepcopy(WORKFLOW)
    workflow["1"]["inputs"]["prompt"] = "cut \ud83d"
    with pytest.raises(SettingsError, match=r"workflow.json, node 1: '\\ud83d' is half a letter"):
        read_workflow(written(tmp_path, workflow))


def test_what_a_server_notes_in_a_workflow_is_not_sent_again(tmp_path):
    """Prompts that are taken from pictures have it, mostly as NaN; with it a node would not look at its file again."""
    workflow = deepcopy(WORKFLOW)
    workflow["2"]["is_changed"] = [float("nan")]
    assert read_workflow(written(tmp_path, workflow)).nodes == WORKFLOW


def test_without_a_server_the_workflow_s_own_values_say_the_types(tmp_path):
    [job] = jobs_of(tmp_path, "prompt,seed,crop\n12,7,no\n", types=NodeTypes())
    assert inputs(job, "1")["prompt"] == "12" and inputs(job, "2")["seed"] == 7 and inputs(job, "2")["crop"] is False


def test_what_a_table_leaves_out_stays_as_the_workflow_has_it(tmp_path):
    csv = jobs_of(tmp_path, "prompt,seed,,\n,5,,\n\nx,,,\n")
    assert [(inputs(job, "1")["prompt"], inputs(job, "2")["seed"]) for job in csv] == [("a star", 5), ("x", 1)]
    lines = jobs_of(tmp_path, '{"seed": 5}\n\n{"prompt": "", "seed": null}\n', name="t.jsonl")
    assert [(job.line, inputs(job, "1")["prompt"]) for job in lines] == [(1, "a star"), (3, "")]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_as_spreadsheets_write_it(tmp_path, mark, delimiter):
    [job] = jobs_of(tmp_path, f'{mark}prompt{delimiter}seed\r\n"a, b; c"{delimiter}7\r\n')
    assert inputs(job, "1")["prompt"] == "a, b; c" and inputs(job, "2")["seed"] == 7


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c"])
def test_only_line_ends_end_a_line(tmp_path, letter):
    first, second = jobs_of(tmp_path, f"prompt,seed\na red{letter}circle,1\na ring,7\n")
    assert inputs(first, "1")["prompt"] == f"a red{letter}circle" and (first.line, second.line) == (2, 3)
    assert "line 3, column seed" in error_of(tmp_path, f"prompt,seed\na{letter}b,1\nx,seven\n")


def test_a_tsv_is_split_at_tabs_alone(tmp_path):
    [job] = jobs_of(tmp_path, "prompt\na red, round, small circle\n", name="table.tsv")
    assert inputs(job, "1")["prompt"] == "a red, round, small circle"


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("a,a\n1,2\n", "t.csv", "line 1: two columns are called 'a'"),
        ("prompt\nx,y\n", "t.csv", "line 2: 2 cells for 1 columns"),
        ("prompt\n", "t.csv", "no line with values"),
        ('{"seed": 1}\n[1]\n', "t.jsonl", "line 2: expected an object"),
        ('{"seed": 1}\n{"seed"\n', "t.jsonl", "line 2: not JSON"),
        ("", "t.xlsx", "'.xlsx' is no table's ending; give a .csv, .tsv or .jsonl file"),
    ],
)
def test_a_table_that_is_none_is_named(tmp_path, text, name, said):
    assert said in error_of(tmp_path, text, name=name)


@pytest.mark.parametrize("content", ["{", "[]", {}, {"1": {"inputs": {}}}, {"nodes": [], "links": []}])
def test_what_is_no_workflow_in_api_form_is_refused_with_how_to_export_it(tmp_path, content):
    with pytest.raises(SettingsError, match=r"Workflow > Export \(API\)"):
        read_workflow(written(tmp_path, content))


def test_a_job_is_known_by_its_content_and_equal_lines_by_their_number(tmp_path):
    def ids(text, **settings):
        return [job.id for job in jobs_of(tmp_path, text, **settings)]

    first = ids("prompt,seed\nx,1\ny,2\nx,1\n")
    assert len(set(first)) == 3
    assert ids("seed,prompt\n2,y\n1,x\n1,x\n") == [first[1], first[0], first[2]]
    assert ids("cfg\n4.0\n") == ids("cfg\n4\n") != ids("cfg\n4.5\n")
    renamed = deepcopy(WORKFLOW)
    renamed["1"]["_meta"]["title"] = "My prompt"
    assert ids("seed\n3\n", workflow=renamed) == ids("seed\n3\n")
    assert ids("seed\n3\n", workflow=WORKFLOW | {"9": WORKFLOW["1"]}) != ids("seed\n3\n")


def test_a_picture_beside_the_table_is_sent_under_a_name_of_its_content(tmp_path):
    (tmp_path / "cat.PNG").write_bytes(b"cat")
    [job, other] = jobs_of(tmp_path, "image\ncat.PNG\nexample.png\n")
    [(target, file)] = job.uploads.items()
    assert file == tmp_path / "cat.PNG" and job.changes[target].startswith("sensenova-queue-")
    assert not other.uploads and inputs(other, "2")["image"] == "example.png"
    before = job.id
    (tmp_path / "cat.PNG").write_bytes(b"another cat")
    assert jobs_of(tmp_path, "image\ncat.PNG\nexample.png\n")[0].id != before
