"""Shards from a hub, end to end: prepare.py in a process of its own against a server on loopback."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_server import COMMIT, Fault, Hub

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROOT = Path(__file__).resolve().parent.parent
REPO = "somebody/mini"
TRAIN, HELD = "part_000.parquet", "part_003.parquet"
CHUNK = 10 * 1024 * 1024  # the client hands bytes on in pieces of this size; a file must be longer to be resumed
ENTRY = f"""
import sys
from types import MappingProxyType
sys.path.insert(0, {str(ROOT)!r})
import data_sources, prepare
data_sources.REGISTRY = MappingProxyType({{**data_sources.REGISTRY, "mini": data_sources.DatasetSpec(
    name="mini", about="a small one", vocab_size=300, seq_len=32, eval_tokens=1024,
    source=data_sources.HubSource(repo={REPO!r}, revision={COMMIT!r}, pattern="part_{{:03d}}.parquet",
                                  folder="mini/data", shards=3, default_shards=1, held_shard=3))}})
sys.exit(prepare.main(sys.argv[1:]))
"""


def stories(seed: int, count: int = 60) -> list[str]:
    rng = random.Random(seed)
    words = ["the", "cat", "sat", "on", "a", "mat", "naïve", "日本", "and", "ran"]
    return [" ".join(rng.choices(words, k=60)) + f" {seed}-{i}" for i in range(count)]


def parquet(texts: list[str], *, ballast: int = 0, column: str = "text") -> bytes:
    """A parquet file; `ballast`: bytes of a second column that cannot be compressed."""
    buffer = io.BytesIO()
    blobs = [random.Random(1).randbytes(ballast) if i == 0 else b"" for i in range(len(texts))]
    pq.write_table(pa.table({column: texts, "ballast": blobs}), buffer)
    return buffer.getvalue()


@pytest.fixture
def hub() -> Hub:
    files = {f"part_{i:03d}.parquet": parquet(stories(i)) for i in range(4)}
    return Hub(REPO, files)


def environment(home: Path, endpoint: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "AUTOEXPERIMENT", "XDG"))}
    return kept | {
        "HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "AUTORESEARCH_CACHE": str(home / "cache"),
        "HF_ENDPOINT": endpoint, "HF_HOME": str(home / "hf"), "NO_PROXY": "127.0.0.1,localhost",
    }  # fmt: skip


def run(home: Path, endpoint: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ENTRY, "--dataset", "mini", *words]
    return subprocess.run(command, env=environment(home, endpoint), capture_output=True, text=True, timeout=120)


def manifest(home: Path) -> dict[str, object]:
    name = (home / "cache" / "mini" / "current").read_text().strip()
    found: dict[str, object] = json.loads((home / "cache" / "mini" / name / "manifest.json").read_text())
    return found


def test_shards_are_fetched_at_the_pinned_commit_and_prepared(tmp_path: Path, hub: Hub) -> None:
    with hub:
        answer = run(tmp_path, hub.endpoint)

    assert answer.returncode == 0, answer.stderr
    made = manifest(tmp_path)
    assert made["revision"] == COMMIT
    assert [(s["name"], s["held"], s["origin"]) for s in made["sources"]] == [  # type: ignore[attr-defined]
        (HELD, True, f"{REPO}@{COMMIT}"),
        (TRAIN, False, f"{REPO}@{COMMIT}"),
    ]
    assert {p for _, p, _ in hub.requests} == {f"/datasets/{REPO}/resolve/{COMMIT}/{n}" for n in (TRAIN, HELD)}
    assert hub.ranges("part_001.parquet") == []


def test_a_second_run_asks_the_network_nothing(tmp_path: Path, hub: Hub) -> None:
    with hub:
        run(tmp_path, hub.endpoint)
        before = len(hub.requests)

        answer = run(tmp_path, hub.endpoint)

    assert "Already prepared" in answer.stdout
    assert len(hub.requests) == before


def test_num_shards_adds_training_text_and_leaves_validation_documents_as_they_are(tmp_path: Path, hub: Hub) -> None:
    with hub:
        run(tmp_path, hub.endpoint)
        one = manifest(tmp_path)
        answer = run(tmp_path, hub.endpoint, "--num-shards", "2")
        two = manifest(tmp_path)

    assert answer.returncode == 0, answer.stderr
    splits = [m["splits"] for m in (one, two)]
    assert [s["train"]["documents"] for s in splits] == [60, 120]  # type: ignore[index]
    assert splits[0]["val"]["documents"] == splits[1]["val"]["documents"]  # type: ignore[index]
    assert one["snapshot"] != two["snapshot"]


def test_a_cut_connection_is_resumed_where_it_broke(tmp_path: Path, hub: Hub) -> None:
    hub.files[TRAIN] = parquet(stories(0), ballast=CHUNK + 500_000)
    hub.faults[TRAIN] = [Fault("cut", CHUNK + 1000)]
    with hub:
        answer = run(tmp_path, hub.endpoint)

    assert answer.returncode == 0, answer.stderr
    assert hub.ranges(TRAIN) == ["", f"bytes={CHUNK}-"]
    assert (tmp_path / "cache/mini/data" / TRAIN).read_bytes() == hub.files[TRAIN]


def test_a_download_killed_half_way_goes_on_in_the_next_run(tmp_path: Path, hub: Hub) -> None:
    hub.files[TRAIN] = parquet(stories(0), ballast=CHUNK + 500_000)
    hub.faults[TRAIN] = [Fault("stall", CHUNK + 1000)]
    with hub:
        command = [sys.executable, "-c", ENTRY, "--dataset", "mini"]
        process = subprocess.Popen(command, env=environment(tmp_path, hub.endpoint), stdout=subprocess.DEVNULL)
        assert hub.stalled.wait(60)
        wait_until(lambda: part_size(tmp_path) == CHUNK)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "cache/mini/data" / TRAIN).exists()

        answer = run(tmp_path, hub.endpoint)

    assert answer.returncode == 0, answer.stderr
    assert hub.ranges(TRAIN) == ["", f"bytes={CHUNK}-"]
    assert (tmp_path / "cache/mini/data" / TRAIN).read_bytes() == hub.files[TRAIN]


def part_size(home: Path) -> int:
    return sum(part.stat().st_size for part in (home / "cache/mini/data").glob(f".{TRAIN}.*.part"))


def wait_until(condition: object) -> None:
    deadline = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited for a minute"
        time.sleep(0.01)


def test_a_truncated_shard_is_never_put_in_place_and_what_came_is_kept(tmp_path: Path, hub: Hub) -> None:
    hub.faults[TRAIN] = [Fault("short", 900), Fault("short", 100)]
    with hub:
        broken = run(tmp_path, hub.endpoint)
        placed = (tmp_path / "cache/mini/data" / TRAIN).exists()
        mended = run(tmp_path, hub.endpoint)

    assert (broken.returncode, placed) == (1, False)
    assert TRAIN in broken.stderr and "type the same again" in broken.stderr
    assert "Traceback" not in broken.stderr
    assert mended.returncode == 0, mended.stderr
    assert hub.ranges(TRAIN) == ["", "bytes=900-", "bytes=1000-"]


def test_a_corrupted_shard_is_fetched_again_from_the_start(tmp_path: Path, hub: Hub) -> None:
    hub.faults[TRAIN] = [Fault("corrupt")]
    with hub:
        answer = run(tmp_path, hub.endpoint)

    assert answer.returncode == 0, answer.stderr
    assert hub.ranges(TRAIN) == ["", ""]
    assert (tmp_path / "cache/mini/data" / TRAIN).read_bytes() == hub.files[TRAIN]


def test_a_shard_corrupted_twice_is_refused_and_thrown_away(tmp_path: Path, hub: Hub) -> None:
    hub.faults[TRAIN] = [Fault("corrupt"), Fault("corrupt")]
    with hub:
        answer = run(tmp_path, hub.endpoint)

    assert answer.returncode == 1
    assert "wrong sha256" in answer.stderr and TRAIN in answer.stderr
    assert sorted(p.name for p in (tmp_path / "cache/mini/data").iterdir()) == [HELD, "shards.json"]


def test_a_server_without_hashes_is_refused(tmp_path: Path, hub: Hub) -> None:
    hub.has_sha256 = False
    with hub:
        answer = run(tmp_path, hub.endpoint)

    assert answer.returncode == 1
    assert "no sha256" in answer.stderr
    assert not list((tmp_path / "cache/mini").glob("*/*.parquet"))


def test_a_file_that_the_hub_does_not_have_is_named(tmp_path: Path, hub: Hub) -> None:
    del hub.files[TRAIN]
    with hub:
        answer = run(tmp_path, hub.endpoint)

    assert answer.returncode == 1
    assert f"Cannot fetch {TRAIN} of {REPO}" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_redirect_to_storage_is_followed_without_the_users_token(tmp_path: Path, hub: Hub) -> None:
    hub.redirects = True
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_secret")
    with hub:
        answer = run(tmp_path, hub.endpoint)

    assert answer.returncode == 0, answer.stderr
    assert any(path.startswith("/storage/") for _, path, _ in hub.requests)
    assert hub.tokens == []


def test_without_a_network_the_message_says_so(tmp_path: Path) -> None:
    answer = run(tmp_path, "http://127.0.0.1:9")

    assert answer.returncode == 1
    assert "Check the connection" in answer.stderr and "Traceback" not in answer.stderr


def test_shards_already_in_the_cache_need_no_network(tmp_path: Path, hub: Hub) -> None:
    folder = tmp_path / "cache/mini/data"
    folder.mkdir(parents=True)
    for name in (TRAIN, HELD):
        (folder / name).write_bytes(hub.files[name])
    with hub:
        answer = run(tmp_path, hub.endpoint)

    assert answer.returncode == 0, answer.stderr
    assert hub.requests == []
    assert [s["origin"] for s in manifest(tmp_path)["sources"]] == ["found in the cache"] * 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("content", ["torn", "no text column", "numbers"])
def test_a_broken_shard_in_the_cache_is_reported_and_fetched_again(tmp_path: Path, hub: Hub, content: str) -> None:
    good = hub.files[TRAIN]
    bad = {"torn": good[:-20], "no text column": parquet(["x"], column="body"), "numbers": parquet([1])}  # type: ignore[list-item]
    folder = tmp_path / "cache/mini/data"
    folder.mkdir(parents=True)
    (folder / TRAIN).write_bytes(bad[content])
    with hub:
        answer = run(tmp_path, hub.endpoint)

    assert answer.returncode == 0, answer.stderr
    assert f"{TRAIN} is damaged" in answer.stdout
    assert (folder / TRAIN).read_bytes() == good


def test_a_shard_that_changed_after_its_download_is_fetched_again(tmp_path: Path, hub: Hub) -> None:
    with hub:
        run(tmp_path, hub.endpoint)
        shard = tmp_path / "cache/mini/data" / TRAIN
        shard.write_bytes(parquet(stories(7)))

        answer = run(tmp_path, hub.endpoint)

    assert "changed after it was checked" in answer.stdout
    assert shard.read_bytes() == hub.files[TRAIN]


def test_a_part_file_longer_than_the_shard_is_thrown_away(tmp_path: Path, hub: Hub) -> None:
    folder = tmp_path / "cache/mini/data"
    folder.mkdir(parents=True)
    digest = hashlib.sha256(hub.files[TRAIN]).hexdigest()
    (folder / f".{TRAIN}.{digest[:12]}.part").write_bytes(hub.files[TRAIN] + b"more")
    with hub:
        answer = run(tmp_path, hub.endpoint)

    assert answer.returncode == 0, answer.stderr
    assert (folder / TRAIN).read_bytes() == hub.files[TRAIN]


@pytest.mark.parametrize("texts", [{TRAIN: ["x"]}, {TRAIN: [""], HELD: [""]}])
def test_shards_without_enough_text_are_refused(tmp_path: Path, hub: Hub, texts: dict[str, list[str]]) -> None:
    hub.files |= {name: parquet(documents) for name, documents in texts.items()}
    with hub:
        answer = run(tmp_path, hub.endpoint)

    assert answer.returncode == 1
    assert "too little text" in answer.stderr and "Traceback" not in answer.stderr


def test_climbmix_uses_the_shards_of_an_earlier_project(tmp_path: Path) -> None:
    rng = random.Random(3)
    folder = tmp_path / "cache/data"
    folder.mkdir(parents=True)
    texts = {"shard_06542": [rng.randbytes(8000).hex() for _ in range(300)], "shard_00000": ["a training text " * 300]}
    for name, documents in texts.items():
        pq.write_table(pa.table({"text": documents}), folder / f"{name}.parquet")

    answer = subprocess.run(
        [sys.executable, str(ROOT / "prepare.py"), "--dataset", "climbmix", "--num-shards", "1", "--vocab-size", "257"],
        env=environment(tmp_path, "http://127.0.0.1:9"), capture_output=True, text=True,
    )  # fmt: skip

    assert answer.returncode == 0, answer.stderr
    assert "768 validation rows" in answer.stdout  # 1,572,864 targets in rows of 2,048


@pytest.mark.parametrize("number", ["0", "4", "-1"])
def test_a_number_of_shards_that_does_not_exist_is_refused(tmp_path: Path, number: str) -> None:
    answer = run(tmp_path, "http://127.0.0.1:9", "--num-shards", number)

    assert answer.returncode == 2
    assert "Allowed: 1 to 3" in answer.stderr
