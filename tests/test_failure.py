"""What a log's end says about a failure: kind, message, frame, class; whatever the log holds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoexperiment.failure import FRAME_LIMIT, KIND_LIMIT, MESSAGE_LIMIT, Failure, classify, clean
from autoexperiment.vocabulary import Outcome

FOLDER = Path("/runs/7/work")
HEADER = "Traceback (most recent call last):\n"


def ended(log: str | bytes, *, exit_code: int | None = 1, signal: int | None = None) -> tuple[Outcome, Failure]:
    blob = log.encode() if isinstance(log, str) else log
    outcome, failure = classify(blob, exit_code=exit_code, signal=signal, folder=FOLDER)
    assert failure is not None
    return outcome, failure


def run_script(folder: Path, source: str) -> tuple[Outcome, Failure]:
    """What is made of the real output of a real interpreter."""
    (folder / "train.py").write_text(source)
    answer = subprocess.run([sys.executable, "-I", "train.py"], cwd=folder, capture_output=True)
    outcome, failure = classify(answer.stdout + answer.stderr, exit_code=answer.returncode, signal=None, folder=folder)
    assert failure is not None
    return outcome, failure


def test_exit_zero_is_ok_whatever_the_log_says() -> None:
    assert classify(HEADER.encode(), exit_code=0, signal=None, folder=FOLDER) == (Outcome.OK, None)


def test_exception_names_the_deepest_frame_of_the_runs_own_files(tmp_path: Path) -> None:
    source = "import json\n\ndef load(text):\n    return json.loads(text)\n\nload('{')\n"

    outcome, failure = run_script(tmp_path, source)

    assert outcome is Outcome.CRASHED
    assert failure.kind == "JSONDecodeError"
    assert failure.frame == "train.py:4 in load"
    assert failure.message.startswith("Expecting property name")


def test_frames_of_installed_packages_are_not_the_runs_own() -> None:
    log = (
        f'{HEADER}  File "{FOLDER}/train.py", line 3, in main\n'
        f'  File "{FOLDER}/.venv/lib/python3.12/site-packages/mlx/nn/linear.py", line 70, in __call__\n'
        "ValueError: shapes\n"
    )

    assert ended(log)[1].frame == "train.py:3 in main"


def test_a_file_in_a_subfolder_is_named_with_it() -> None:
    log = f'{HEADER}  File "{FOLDER}/model/attention.py", line 9, in forward\nValueError: shapes\n'

    assert ended(log)[1].frame == "model/attention.py:9 in forward"


def test_syntax_error_in_the_script_itself_is_read_without_a_header(tmp_path: Path) -> None:
    outcome, failure = run_script(tmp_path, "x = 1\ndef f(:\n    pass\n")

    assert (outcome, failure.kind, failure.frame) == (Outcome.CRASHED, "SyntaxError", "train.py:2")
    assert failure.message == "invalid syntax"


def test_of_chained_exceptions_the_last_one_counts(tmp_path: Path) -> None:
    source = "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise RuntimeError('second') from e\n"

    failure = run_script(tmp_path, source)[1]

    assert failure == Failure("RuntimeError", "second", "train.py:4 in <module>")


def test_of_an_exception_group_the_last_leaf_counts(tmp_path: Path) -> None:
    source = (
        "def f():\n    raise KeyError('deep')\n"
        "caught = []\ntry:\n    f()\nexcept KeyError as e:\n    caught.append(e)\n"
        "raise ExceptionGroup('both', [ValueError('a'), *caught])\n"
    )

    failure = run_script(tmp_path, source)[1]

    assert failure == Failure("KeyError", "'deep'", "train.py:2 in f")


def test_an_exception_ignored_at_exit_does_not_hide_the_real_one(tmp_path: Path) -> None:
    source = (
        "class Late:\n    def __del__(self):\n        raise OSError('late')\n"
        "late = Late()\nraise ValueError('the real one')\n"
    )

    failure = run_script(tmp_path, source)[1]

    assert (failure.kind, failure.message) == ("ValueError", "the real one")


def test_an_exception_of_a_local_class_is_named(tmp_path: Path) -> None:
    source = "def f():\n    class Odd(Exception):\n        pass\n    raise Odd('here')\nf()\n"

    assert run_script(tmp_path, source)[1] == Failure("Odd", "here", "train.py:4 in f")


def test_a_progress_bar_before_the_traceback_does_not_hide_it() -> None:
    log = f'step 1\rstep 2\r{HEADER}  File "train.py", line 3, in main\nValueError: bad\n'

    assert ended(log)[1] == Failure("ValueError", "bad", "train.py:3 in main")


def test_a_coloured_traceback_is_read() -> None:
    log = f'\x1b[31m{HEADER}\x1b[0m  File \x1b[35m"train.py"\x1b[0m, line 3, in main\n\x1b[1mValueError\x1b[0m: bad\n'

    assert ended(log)[1] == Failure("ValueError", "bad", "train.py:3 in main")


def test_a_torn_traceback_keeps_its_frame() -> None:
    failure = ended(f'{HEADER}  File "train.py", line 3, in main\n    model(x')[1]

    assert (failure.kind, failure.frame) == ("traceback", "train.py:3 in main")


def test_without_a_traceback_the_last_line_is_the_message() -> None:
    assert ended("loading\nno such dataset: foo\n\n", exit_code=7)[1] == Failure("exit 7", "no such dataset: foo")


def test_a_fatal_signal_is_named_even_after_a_printed_traceback() -> None:
    log = f'{HEADER}  File "train.py", line 3, in main\nValueError: caught and printed\ngoing on\n'

    outcome, failure = ended(log, exit_code=None, signal=11)

    assert (outcome, failure) == (Outcome.CRASHED, Failure("SIGSEGV", "going on"))


def test_divergence_needs_the_exit_code_and_the_line() -> None:
    log = "diverged: loss nan at step 12\n"

    assert ended(log, exit_code=3) == (Outcome.DIVERGED, Failure("diverged", "loss nan at step 12"))
    assert ended(log, exit_code=1)[0] is Outcome.CRASHED
    assert ended("no such line\n", exit_code=3)[0] is Outcome.CRASHED
    assert ended("it has diverged: yes\n", exit_code=3)[0] is Outcome.CRASHED


@pytest.mark.parametrize(
    "log",
    [
        f"{HEADER}MemoryError\n",
        f"{HEADER}numpy._core._exceptions._ArrayMemoryError: Unable to allocate 3.0 TiB for an array\n",
        f"{HEADER}RuntimeError: [malloc_or_wait] Unable to allocate 99999 bytes.\n",
        f"{HEADER}torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB\n",
        f"{HEADER}OSError: [Errno 12] Cannot allocate memory\n",
        "libc++abi: terminating: [METAL] Command buffer execution failed: Insufficient Memory\n",
        "error (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)\nFatal Python error: Aborted\n",
        "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n",
        "CUDA_ERROR_OUT_OF_MEMORY\n",
    ],
)
def test_known_complaints_about_memory_are_oom(log: str) -> None:
    assert ended(log)[0] is Outcome.OOM


def test_a_kill_from_outside_is_most_likely_for_want_of_memory() -> None:
    outcome, failure = ended("step 5\n", exit_code=None, signal=9)

    assert outcome is Outcome.OOM
    assert failure.message == "killed by the system, most likely out of memory"
    assert ended("Killed\n", exit_code=137)[0] is Outcome.OOM


def test_talk_of_memory_far_above_the_end_is_not_oom() -> None:
    log = "batch halved: out of memory\n" + "step\n" * 30

    assert ended(log)[0] is Outcome.CRASHED


def test_fingerprint_ignores_what_changes_from_run_to_run() -> None:
    first = Failure("ValueError", "shape (3, 4) at 0x7f00 in /tmp/run1/x.npy, loss 1.5e-3", "train.py:12 in main")
    second = Failure("ValueError", "shape (9, 1) at 0xabcd in /tmp/run2/x.npy, loss 0.25", "train.py:40 in main")

    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize(
    "other",
    [
        Failure("KeyError", "name 'a' is not defined", "train.py:12 in main"),
        Failure("NameError", "name 'b' is not defined", "train.py:12 in main"),
        Failure("NameError", "name 'a' is not defined", "train.py:12 in step"),
        Failure("NameError", "name 'a' is not defined", "model.py:12 in main"),
    ],
)
def test_fingerprint_tells_kind_words_function_and_file_apart(other: Failure) -> None:
    failure = Failure("NameError", "name 'a' is not defined", "train.py:12 in main")

    assert failure.fingerprint != other.fingerprint


def test_clean_leaves_one_printable_line() -> None:
    text = "a\x1b[31mb\x1b]0;title\x07\x00\u202ec\u2028d\ne"

    assert clean(text, 100) == "ab c d e"
    assert clean("x" * 50, 10) == "x" * 9 + "…"


def is_bounded(failure: Failure) -> bool:
    parts = ((failure.kind, KIND_LIMIT), (failure.message, MESSAGE_LIMIT), (failure.frame, FRAME_LIMIT))
    return all(len(text) <= limit and text.isprintable() for text, limit in parts)


PIECES = st.one_of(
    st.sampled_from(
        [
            HEADER, "  + Exception Group Traceback (most recent call last):\n", "    | ", "  +-+---------------- 1 ---\n",
            '  File "train.py", line 3, in main\n', '  File "/runs/7/work/a.py", line 9\n', "    x = 1\n", "\r", "\x1b[",
            "ValueError: bad\n", "Exception ignored in: <f>\n", "KeyError", ": ", "\n", "\x00", "diverged: nan\n",
        ]
    ),
    st.text(max_size=30),
)  # fmt: skip


@given(pieces=st.lists(PIECES, max_size=40), exit_code=st.sampled_from([1, 3, 137, None]), signal=st.integers(1, 70))
def test_any_text_gives_a_bounded_printable_failure(pieces: list[str], exit_code: int | None, signal: int) -> None:
    log = "".join(pieces).encode("utf-8", "surrogatepass")

    _, failure = ended(log, exit_code=exit_code, signal=signal if exit_code is None else None)

    assert is_bounded(failure)
    assert re.fullmatch(r"[0-9a-f]{16}", failure.fingerprint)


@given(log=st.binary(max_size=400))
@settings(max_examples=50)
def test_any_bytes_give_a_bounded_printable_failure(log: bytes) -> None:
    assert is_bounded(ended(HEADER.encode() + log)[1])


@pytest.mark.parametrize(
    "unit",
    [b" ", b"| ", b"\x1b[", b"\x1b]", b'File "', HEADER.encode(), b'  File "/a.py", line 1, in f\n', b"\r", b"a."],
)
def test_a_megabyte_of_one_thing_is_read_and_bounded(unit: bytes) -> None:
    log = HEADER.encode() + unit * (1_000_000 // len(unit))

    assert is_bounded(ended(log)[1])
