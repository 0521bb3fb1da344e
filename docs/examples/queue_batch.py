"""Draw a workflow with several prompts on a ComfyUI server: the idea of `sensenova queue` in some fifty lines.

python queue_batch.py workflow_api.json http://127.0.0.1:8188 "a red ring" "a small blue heart"
"""

import json
import sys
import uuid
from pathlib import Path

import httpx
import websocket

workflow_file, url, *prompts = sys.argv[1:]
workflow = json.loads(Path(workflow_file).read_text(encoding="utf-8"))
[encoder] = [id for id, node in workflow.items() if isinstance(node["inputs"].get("prompt"), str)]


def same_id(content: object) -> str:
    """The same for the same content, so that a job is found again and not drawn twice."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(content, sort_keys=True)))


def follow(listener: websocket.WebSocket, job: str) -> None:
    """Print the steps of a job, up to its end."""
    for message in listener:
        if isinstance(message, bytes) or job not in message:
            continue  # a preview, or about another job
        kind, data = (content := json.loads(message))["type"], content["data"]
        if kind == "progress":
            print(f"  step {data['value']} of {data['max']}", flush=True)
        if kind == "executing" and data["node"] is None:
            return


client_id = same_id([url, workflow])  # who sent a job hears of it, also when started anew
listener = websocket.create_connection(url.replace("http", "ws", 1) + f"/ws?clientId={client_id}")
with httpx.Client(base_url=url, timeout=60) as server:
    for number, prompt in enumerate(prompts, 1):
        workflow[encoder]["inputs"]["prompt"] = prompt
        job = same_id(workflow)
        print(f"{number}: {prompt}", flush=True)
        waits = job in server.get("/queue").text  # asked before the history, where jobs go from there
        if not waits and not server.get(f"/history/{job}").json():
            body = {"prompt": workflow, "prompt_id": job, "client_id": client_id}
            server.post("/prompt", json=body).raise_for_status()
            waits = True
        if waits:
            follow(listener, job)
        entry = server.get(f"/history/{job}").json()[job]
        if entry["status"]["status_str"] != "success":
            error = dict(entry["status"]["messages"]).get("execution_error", {})
            print("  failed:", error.get("exception_message", "it was interrupted"))
        files = [file for shown in entry["outputs"].values() for file in shown.get("images", ())]
        for index, file in enumerate(files, 1):
            target = Path(f"{number:04d}_{index}.png")
            target.write_bytes(server.get("/view", params=file).raise_for_status().content)
            print(f"  {target}")
