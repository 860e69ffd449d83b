"""Fetching one file: resumed, checked, complete or absent."""

from __future__ import annotations

import hashlib
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from file_server import Fault, FileServer

from autoexperiment.datasets import download
from autoexperiment.datasets.download import fetch, has_digest
from autoexperiment.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
BLOB = random.Random(1).randbytes(300_000)
SHA256 = f"sha256:{hashlib.sha256(BLOB).hexdigest()}"
LIMIT = 1_000_000


@pytest.fixture
def site() -> FileServer:
    return FileServer({"pictures.gz": BLOB})


def get(site: FileServer, target: Path, *, digest: str = SHA256, limit: int = LIMIT) -> list[str]:
    said: list[str] = []
    fetch(site.url("pictures.gz"), target, digest=digest, limit_bytes=limit, say=said.append)
    return said


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def part_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.{SHA256[-12:]}.part")


def test_a_file_is_fetched_into_a_folder_that_was_not_there(tmp_path: Path, site: FileServer) -> None:
    target = tmp_path / "a" / "b" / "pictures.gz"

    with site:
        said = get(site, target)

    assert target.read_bytes() == BLOB
    assert names(tmp_path) == ["a", "b", "pictures.gz"]
    assert said[0].startswith("Fetching http://127.0.0.1")


def test_a_file_that_is_there_is_not_fetched(tmp_path: Path, site: FileServer) -> None:
    target = tmp_path / "pictures.gz"
    target.write_bytes(BLOB)

    with site:
        get(site, target)

    assert site.requests == []


def test_a_file_that_is_there_with_another_content_is_named_and_kept(tmp_path: Path, site: FileServer) -> None:
    target = tmp_path / "pictures.gz"
    target.write_bytes(b"mine")

    with site, pytest.raises(DataError, match=r"is there, but its hash is not sha256:.*Move it away"):
        get(site, target)

    assert target.read_bytes() == b"mine"


def test_md5_is_a_hash_too(tmp_path: Path, site: FileServer) -> None:
    with site:
        get(site, tmp_path / "pictures.gz", digest=f"md5:{hashlib.md5(BLOB).hexdigest()}")

    assert (tmp_path / "pictures.gz").read_bytes() == BLOB


@pytest.mark.parametrize("digest", ["", "sha256:12", "crc32:12345678", SHA256[7:]])
def test_what_is_no_hash_is_refused(tmp_path: Path, site: FileServer, digest: str) -> None:
    with site, pytest.raises(DataError, match="is no hash"):
        get(site, tmp_path / "pictures.gz", digest=digest)

    assert site.requests == []


def test_a_broken_connection_is_taken_up_where_it_broke(tmp_path: Path, site: FileServer) -> None:
    site.faults["pictures.gz"] = [Fault("cut", 100_000), Fault("cut", 50_000)]

    with site:
        get(site, tmp_path / "pictures.gz")

    assert site.ranges("pictures.gz") == ["", "bytes=100000-", "bytes=150000-"]
    assert (tmp_path / "pictures.gz").read_bytes() == BLOB


def test_a_connection_that_always_breaks_keeps_what_arrived_for_the_next_call(tmp_path: Path, site: FileServer) -> None:
    target = tmp_path / "pictures.gz"
    site.faults["pictures.gz"] = [Fault("cut", 1000) for _ in range(download.CONNECTIONS)]
    with site:
        with pytest.raises(DataError, match=f"broke off {download.CONNECTIONS} times. What arrived is kept"):
            get(site, target)
        assert names(tmp_path) == [part_of(target).name]

        get(site, target)

    assert site.ranges("pictures.gz")[-1] == f"bytes={1000 * download.CONNECTIONS}-"
    assert target.read_bytes() == BLOB


def test_a_killed_download_goes_on_in_the_next_call(tmp_path: Path, site: FileServer) -> None:
    target = tmp_path / "pictures.gz"
    site.faults["pictures.gz"] = [Fault("stall", 100_000)]
    with site:
        process = subprocess.Popen(child_command(site, target), cwd=ROOT, stdout=subprocess.DEVNULL)
        assert site.stalled.wait(60)
        while not part_of(target).exists() or part_of(target).stat().st_size < 100_000:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not target.exists()

        get(site, target)

    assert site.ranges("pictures.gz") == ["", "bytes=100000-"]
    assert target.read_bytes() == BLOB


def child_command(site: FileServer, target: Path) -> list[str]:
    code = (
        "import sys; from pathlib import Path; from autoexperiment.datasets.download import fetch\n"
        f"fetch({site.url('pictures.gz')!r}, Path({str(target)!r}), digest={SHA256!r}, limit_bytes={LIMIT}, say=print)"
    )
    return [sys.executable, "-c", code]


def test_two_processes_at_once_fetch_once(tmp_path: Path, site: FileServer) -> None:
    target = tmp_path / "pictures.gz"
    site.faults["pictures.gz"] = [Fault("stall", len(BLOB) - 1)]
    waits = threading.Event()
    with site:
        first = subprocess.Popen(child_command(site, target), cwd=ROOT, stdout=subprocess.PIPE)
        assert site.stalled.wait(60)
        said: list[str] = []

        def say(line: str) -> None:
            said.append(line)
            waits.set()
            site.released.set()  # only when the second one waits is the first one let go

        fetch(site.url("pictures.gz"), target, digest=SHA256, limit_bytes=LIMIT, say=say)
        first.communicate()

    assert waits.is_set()
    assert said == ["Another process is fetching pictures.gz: waiting for it"]
    assert first.returncode == 0
    assert site.ranges("pictures.gz") == ["", f"bytes={len(BLOB) - 1}-"]  # the first one's, and its last byte
    assert names(tmp_path) == ["pictures.gz"]


def test_whoever_waited_for_a_download_that_failed_fetches_it_himself(tmp_path: Path, site: FileServer) -> None:
    target = tmp_path / "pictures.gz"
    site.faults["pictures.gz"] = [Fault("corrupt"), Fault("corrupt")]
    errors: list[str] = []

    def attempt() -> None:
        try:
            get(site, target)
        except DataError as error:
            errors.append(str(error))

    with site:
        threads = [threading.Thread(target=attempt) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(errors) == 1
    assert target.read_bytes() == BLOB


def test_a_part_of_another_content_is_thrown_away(tmp_path: Path, site: FileServer) -> None:
    target = tmp_path / "pictures.gz"
    part_of(target).write_bytes(b"x" * 1000)

    with site:
        get(site, target)

    assert site.ranges("pictures.gz") == ["bytes=1000-", ""]
    assert target.read_bytes() == BLOB


def test_a_part_that_is_complete_needs_no_more_bytes(tmp_path: Path, site: FileServer) -> None:
    target = tmp_path / "pictures.gz"
    part_of(target).write_bytes(BLOB)

    with site:
        get(site, target)

    assert site.ranges("pictures.gz") == [f"bytes={len(BLOB)}-"]  # answered with 416
    assert names(tmp_path) == ["pictures.gz"]


@pytest.mark.parametrize("kind", ["whole", "shifted"])
def test_a_server_that_sends_another_range_than_asked_is_understood(
    tmp_path: Path, site: FileServer, kind: str
) -> None:
    target = tmp_path / "pictures.gz"
    part_of(target).write_bytes(BLOB[:1000])
    site.faults["pictures.gz"] = [Fault(kind)]

    with site:
        get(site, target)

    assert site.ranges("pictures.gz") == ["bytes=1000-"] + ([""] if kind == "shifted" else [])
    assert target.read_bytes() == BLOB


def test_wrong_bytes_are_fetched_once_more(tmp_path: Path, site: FileServer) -> None:
    site.faults["pictures.gz"] = [Fault("corrupt")]

    with site:
        get(site, tmp_path / "pictures.gz")

    assert site.ranges("pictures.gz") == ["", ""]
    assert (tmp_path / "pictures.gz").read_bytes() == BLOB


def test_bytes_that_are_wrong_twice_leave_nothing(tmp_path: Path, site: FileServer) -> None:
    site.faults["pictures.gz"] = [Fault("corrupt"), Fault("corrupt")]

    with site, pytest.raises(DataError, match=r"arrived twice with another hash.*thrown away"):
        get(site, tmp_path / "pictures.gz")

    assert names(tmp_path) == []


@pytest.mark.parametrize("fault", [Fault(""), Fault("endless", 10)])
def test_a_file_that_is_too_long_is_not_fetched(tmp_path: Path, site: FileServer, fault: Fault) -> None:
    site.faults["pictures.gz"] = [fault]
    limit = len(BLOB) - 1 if fault.kind == "" else len(BLOB)

    with site, pytest.raises(DataError, match=rf"and {limit:,} are expected. Nothing was kept"):
        get(site, tmp_path / "pictures.gz", limit=limit)

    assert names(tmp_path) == []


def test_an_announced_length_beyond_the_limit_is_refused_before_a_byte_is_kept(
    tmp_path: Path, site: FileServer
) -> None:
    site.faults["pictures.gz"] = [Fault("cut", 10)]

    with site, pytest.raises(DataError, match="300,000 bytes or more"):
        get(site, tmp_path / "pictures.gz", limit=1000)


@pytest.mark.parametrize("code", [403, 404, 503])
def test_a_refusal_of_the_server_is_told(tmp_path: Path, site: FileServer, code: int) -> None:
    site.faults["pictures.gz"] = [Fault("status", code)]

    with site, pytest.raises(DataError, match=rf"Cannot fetch http://.*the server answered {code} ") as caught:
        get(site, tmp_path / "pictures.gz")

    assert str(tmp_path / "pictures.gz") in str(caught.value)


def test_without_a_network_the_message_says_which_file_to_put_where(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/pictures.gz"

        with pytest.raises(DataError) as caught:
            fetch(url, tmp_path / "pictures.gz", digest=SHA256, limit_bytes=LIMIT, say=print)

    message = str(caught.value)
    assert f"Cannot fetch {url}: there is no network here, or 127.0.0.1 does not answer" in message
    assert f"Put the file at {tmp_path / 'pictures.gz'} yourself" in message
    assert not (tmp_path / "pictures.gz").exists()


def test_a_name_that_no_network_knows_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def resolve(*arguments: object, **more: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)

    with pytest.raises(DataError, match=r"no network here, or nowhere\.invalid does not answer \(.*Name or service"):
        fetch("https://nowhere.invalid/f", tmp_path / "f", digest=SHA256, limit_bytes=LIMIT, say=print)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "http://example.org/f",
        "http://localhost.example.org/f",
        "ftp://example.org/f",
        "/etc/passwd",
        "data:,x",
        "https:f",
        "https://[",
    ],
)
def test_only_https_addresses_are_fetched(tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError, match=r"the address is not allowed\. Only https"):
        fetch(url, tmp_path / "f", digest=SHA256, limit_bytes=LIMIT, say=print)

    assert names(tmp_path) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:x/f", f"http://127.0.0.1:{10**30}/f", "http://127.0.0.1:1/a b"])
def test_an_address_that_makes_no_sense_is_told(tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError, match="Cannot fetch http"):
        fetch(url, tmp_path / "f", digest=SHA256, limit_bytes=LIMIT, say=print)


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://example.org/f", "http://example.org/f", "data:,x"])
def test_a_redirect_to_another_kind_of_address_is_refused(tmp_path: Path, site: FileServer, address: str) -> None:
    site.redirects["pictures.gz"] = address

    with site, pytest.raises(DataError, match="not allowed"):
        get(site, tmp_path / "pictures.gz")

    assert not (tmp_path / "pictures.gz").exists()


def test_a_redirect_from_afar_may_not_lead_to_this_machine() -> None:
    order = download._Order("https://example.org/f", Path("f"), SHA256, LIMIT, print)

    with pytest.raises(DataError, match=r"redirects to http://127\.0\.0\.1:8080/f, which is not allowed"):
        download._check_address(order, "http://127.0.0.1:8080/f")


def test_a_redirect_is_followed_and_keeps_the_range(tmp_path: Path, site: FileServer) -> None:
    target = tmp_path / "pictures.gz"
    part_of(target).write_bytes(BLOB[:1000])
    site.files["elsewhere"] = BLOB
    with site:
        site.redirects["pictures.gz"] = site.url("elsewhere")

        get(site, target)

    assert site.ranges("elsewhere") == ["bytes=1000-"]
    assert target.read_bytes() == BLOB


def test_a_circle_of_redirects_ends(tmp_path: Path, site: FileServer) -> None:
    with site:
        site.redirects["pictures.gz"] = site.url("pictures.gz")

        with pytest.raises(DataError, match="the server answered 302"):
            get(site, tmp_path / "pictures.gz")


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    tmp_path: Path, site: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)

    with site:
        get(site, tmp_path / "pictures.gz")

    assert (tmp_path / "pictures.gz").read_bytes() == BLOB


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, site: FileServer) -> None:
    (tmp_path / "file").write_bytes(b"")

    with site, pytest.raises(DataError, match=r"Cannot write .*file.*: (Not a directory|File exists)"):
        get(site, tmp_path / "file" / "pictures.gz")


def test_a_full_disk_is_told_and_leaves_no_file(tmp_path: Path, site: FileServer) -> None:
    target = tmp_path / "pictures.gz"
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); "
    with site:
        python, flag, code = child_command(site, target)

        answer = subprocess.run([python, flag, limited + code], cwd=ROOT, capture_output=True, text=True)

    assert f"DataError: Cannot write {target}: File too large. Make room" in answer.stderr
    assert not target.exists()


def test_a_long_download_tells_how_far_it_is(tmp_path: Path, site: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_LOUD_BYTES", 1000)
    site.files["pictures.gz"] = BLOB

    with site:
        said = get(site, tmp_path / "pictures.gz")

    assert said[-2] == "pictures.gz: 0 of 0 MB"
    assert said[-1].startswith("Fetched ")


def test_a_hash_is_compared_whatever_its_letters(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    published = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD"

    assert has_digest(tmp_path / "f", f"sha256:{published}")
    assert not has_digest(tmp_path / "f", f"sha256:{published[:-1]}E")
