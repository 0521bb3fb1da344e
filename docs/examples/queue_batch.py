"""Draw a workflow with several prompts on a ComfyUI server: the idea of `sensenova queue` in fifty lines.

python queue_batch.py workflow_api.json http://127.0.0.1:8188 "a red ring" "a small blue heart"
"""

import json
import sys
import uuid
from copy import deepcopy
from pathlib import Path

import httpx
import websocket

workflow_file, url, *prompts = sys.argv[1:]
workflow = json.loads(Path(workflow_file).read_text(encoding="utf-8"))
[encoder] = [id for id, node in workflow.items() if isinstance(node["inputs"].get("prompt"), str)]
client_id = uuid.uuid4().hex


def job_id(nodes: dict) -> str:
    """The same for the same job, so that it is found again and not drawn twice."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(nodes, sort_keys=True)))


def follow(listener: websocket.WebSocket, job: str) -> None:
    """Print the steps of a job, up to its end."""
    while True:
        message = listener.recv()
        if isinstance(message, bytes):
            continue  # a preview
        data = (content := json.loads(message))["data"]
        if data.get("prompt_id") == job and content["type"] == "progress":
            print(f"  step {data['value']} of {data['max']}")
        if data.get("prompt_id") == job and content["type"] == "executing" and data["node"] is None:
            return


with httpx.Client(base_url=url, timeout=60) as server:
    listener = websocket.create_connection(url.replace("http", "ws", 1) + f"/ws?clientId={client_id}")
    for number, prompt in enumerate(prompts, 1):
        nodes = deepcopy(workflow)
        nodes[encoder]["inputs"]["prompt"] = prompt
        job = job_id(nodes)
        if not server.get(f"/history/{job}").json():
            print(f"{number}: {prompt}")
            body = {"prompt": nodes, "prompt_id": job, "client_id": client_id}
            server.post("/prompt", json=body).raise_for_status()
            follow(listener, job)
        for shown in server.get(f"/history/{job}").json()[job]["outputs"].values():
            for index, file in enumerate(shown.get("images", ()), 1):
                target = Path(f"{number:04d}_{index}.png")
                target.write_bytes(server.get("/view", params=file).raise_for_status().content)
                print(target)
    listener.close()
