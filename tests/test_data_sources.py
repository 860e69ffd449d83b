"""The registry, and which files become documents."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import data_sources  # noqa: E402
from autoexperiment.errors import Refused, UsageError  # noqa: E402
from data_sources import FolderSource, Request, StdlibSource  # noqa: E402

# The machine may be busy: a slow example is no failure.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def request(cache: Path, **options: object) -> Request:
    return Request(cache, print, **options)  # type: ignore[arg-type]


def folder_names(root: Path) -> list[str]:
    return sorted(file.name for file in FolderSource().corpus(request(root, path=root)).files)


def test_the_registry_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        data_sources.REGISTRY["mine"] = data_sources.REGISTRY["textdir"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        data_sources.REGISTRY["textdir"].seq_len = 1  # type: ignore[misc]


def test_every_name_in_the_registry_is_that_of_its_entry() -> None:
    assert {name: spec.name for name, spec in data_sources.REGISTRY.items()} == {
        "pystdlib": "pystdlib", "textdir": "textdir", "tinystories": "tinystories", "climbmix": "climbmix"
    }  # fmt: skip


def test_an_unknown_dataset_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match=r"'tinystory'.*Did you mean 'tinystories'"):
        data_sources.spec("tinystory")


def test_hub_revisions_are_commit_hashes() -> None:
    sources = [spec.source for spec in data_sources.REGISTRY.values()]

    hubs = [source for source in sources if isinstance(source, data_sources.HubSource)]
    assert len(hubs) == 2
    assert all(len(hub.revision) == 40 and set(hub.revision) <= set("0123456789abcdef") for hub in hubs)


def test_climbmix_keeps_its_last_shard_for_validation() -> None:
    source = data_sources.REGISTRY["climbmix"].source
    assert isinstance(source, data_sources.HubSource)

    names = source._names(2)

    assert names == [("shard_06542.parquet", True), ("shard_00000.parquet", False), ("shard_00001.parquet", False)]


def test_the_standard_library_comes_without_tests_and_packages(tmp_path: Path) -> None:
    corpus = StdlibSource().corpus(request(tmp_path))

    names = {file.name for file in corpus.files}
    assert {"dataclasses.py", "json/decoder.py"} <= names
    parts = {part for name in names for part in name.split("/")[:-1]}
    assert not parts & {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    assert not any(name.startswith("_sysconfigdata") for name in names)


def test_documents_of_the_standard_library_are_its_files(tmp_path: Path) -> None:
    corpus = StdlibSource().corpus(request(tmp_path))

    texts = {file.name: text for file, text in corpus.documents()}

    source = Path(sysconfig.get_path("stdlib"), "dataclasses.py")
    assert texts["dataclasses.py"] == source.read_bytes().decode()


def test_an_interpreter_without_library_sources_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))

    with pytest.raises(Refused, match=r"holds no \.py files"):
        StdlibSource().corpus(request(tmp_path))


def test_a_folder_gives_its_text_files_whatever_their_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b").write_text("zwei ü")

    assert folder_names(tmp_path) == ["a.txt", "deep/b"]


@pytest.mark.parametrize(
    ("name", "blob"), [("latin1.txt", b"caf\xe9"), ("binary.txt", b"a\0b"), (".hidden", b"text"), ("empty", b"")]
)
def test_what_is_not_visible_text_is_left_out(tmp_path: Path, name: str, blob: bytes) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / name).write_bytes(blob)

    assert folder_names(tmp_path) == ["good.txt"]


def test_files_that_are_no_text_are_counted(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "a").write_bytes(b"\xff\xff")
    (tmp_path / "b").write_bytes(b"\0")

    assert FolderSource().corpus(request(tmp_path, path=tmp_path)).skipped == 2


def test_hidden_folders_are_not_entered(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("token")

    assert folder_names(tmp_path) == ["good.txt"]


def test_symbolic_links_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "good.txt").write_text("good")
    (inside / "file.txt").symlink_to(outside / "secret.txt")
    (inside / "folder").symlink_to(outside)

    assert folder_names(inside) == ["good.txt"]


def test_a_fifo_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good")
    os.mkfifo(tmp_path / "pipe")

    assert folder_names(tmp_path) == ["good.txt"]


def test_a_file_over_the_size_limit_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good")
    with (tmp_path / "dump.txt").open("wb") as file:
        for _ in range(32):
            file.write(b"a" * 2**20)
        file.write(b"a")

    assert folder_names(tmp_path) == ["good.txt"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "needs a folder of text files"),
        ("absent", "is not a folder"),
        ("file", "is not a folder"),
        ("empty", "holds no UTF-8 text file (0 skipped)"),
        ("", "holds no UTF-8 text file (1 skipped)"),
    ],
)
def test_a_folder_without_text_is_a_usage_error_that_says_what_to_type(
    tmp_path: Path, name: str | None, message: str
) -> None:
    (tmp_path / "file").write_bytes(b"\xff")
    (tmp_path / "empty").mkdir()
    path = None if name is None else tmp_path / name

    with pytest.raises(UsageError) as caught:
        FolderSource().corpus(request(tmp_path, path=path))

    assert message in str(caught.value)
    assert str(caught.value).endswith("Type: python prepare.py --dataset textdir --path FOLDER")


def test_a_renamed_file_leaves_the_corpus_in_the_same_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("first text")
    (tmp_path / "b").write_text("second text")
    before = [f.sha256 for f in FolderSource().corpus(request(tmp_path, path=tmp_path)).files]
    (tmp_path / "a").rename(tmp_path / "z")

    after = [f.sha256 for f in FolderSource().corpus(request(tmp_path, path=tmp_path)).files]

    assert before == after


def test_a_long_file_becomes_several_documents_cut_at_line_ends(tmp_path: Path) -> None:
    line = "x" * 99 + "\n"
    (tmp_path / "book").write_text(line * 100)

    documents = [text for _, text in FolderSource().corpus(request(tmp_path, path=tmp_path)).documents()]

    assert [len(d) for d in documents] == [4100, 4100, 1800]  # 41 lines are the first 4,096 characters or more


@PATIENT
@given(st.text(alphabet="ab \n\r\u2028é", max_size=200), st.integers(1, 30))
def test_pieces_joined_are_the_text(text: str, chars: int) -> None:
    parts = list(data_sources.pieces(text, chars=chars))

    assert "".join(parts) == text
    assert all(len(part) >= chars for part in parts[:-1])
    assert all(parts)
