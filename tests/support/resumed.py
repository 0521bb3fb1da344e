"""`sensenova generate --jsonl --resume` that is killed again and again, alone or beside another.

python -m tests.support.resumed 100 2    # the whole of it: 100 lines, drawn by two processes
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from PIL import Image

REPOSITORY = Path(__file__).parents[2]


def drawn_with_kills(folder: Path, lines: int, processes: int = 1, most_kills: int = 10**6, seed: int = 0) -> tuple:
    """Returns the pictures that are there, as a count of each, those that are wanted, and how many kills there were."""
    values = [{"prompt": f"star {number}", "seed": number} for number in range(lines - 2)]
    values += [{"prompt": "twice", "batch_size": 2}] * 2
    listed, output = folder / "lines.jsonl", folder / "out"
    listed.write_text("\n".join(map(json.dumps, values)))
    command = [sys.executable, "-m", "sensenova_core", "generate", "--model", "demo", "--num-steps", "1", "--resume"]
    command += ["--width", "64", "--height", "64", "--jsonl", str(listed), "--output", str(output)]
    quiet = subprocess.DEVNULL
    chance, kills, statuses = random.Random(seed), 0, [-9]
    while any(statuses):
        running = [subprocess.Popen(command, cwd=REPOSITORY, stdout=quiet, stderr=quiet) for _ in range(processes)]
        wanted = _count(output) + chance.randint(1, max(1, lines // 3))
        while any(process.poll() is None for process in running):
            if kills < most_kills and _count(output) >= wanted:
                time.sleep(chance.random() / 20)
                for process in running:
                    process.kill()
                break
            time.sleep(0.005)
        statuses = [process.wait() for process in running]
        kills += statuses.count(-9)
        assert set(statuses) <= {0, -9}
    made = [json.loads(Image.open(path).text["sensenova"]) for path in output.glob("*.png")]
    there = Counter((each["prompt"], each["seed"], each["batch_index"]) for each in made)
    all_of_them = Counter(
        (each["prompt"], each.get("seed", 42), index) for each in values for index in range(each.get("batch_size", 1))
    )
    return there, all_of_them, kills


def _count(folder: Path) -> int:
    return sum(name.endswith(".png") for name in os.listdir(folder)) if folder.is_dir() else 0


if __name__ == "__main__":
    there, wanted, kills = drawn_with_kills(Path(tempfile.mkdtemp()), int(sys.argv[1]), int(sys.argv[2]))
    print("right" if there == wanted else "WRONG", f"{there.total()} of {wanted.total()} pictures, {kills} kills")
