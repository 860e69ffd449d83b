"""The plugins' own lint: a sound plugin has no finding, and each planted fault is found where it stands."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import check_plugin  # noqa: E402
import frontmatter  # noqa: E402

SKILL = """\
---
name: toy
description: >-
  Plays with toys,
  all day.
argument-hint: "<tag> [dataset]"
arguments: [tag, dataset]
disable-model-invocation: true
context: fork
agent: toys:helper
model: opus
effort: max
allowed-tools:
  - Bash(mlx loop *)
  - Read
compatibility: any
metadata:
  category: toys
  tags: [a, "b, c"]
---

# Toys

Arguments: $ARGUMENTS, tag $tag, dataset $dataset. See [the guide](../../references/guide.md) and
`${CLAUDE_PLUGIN_ROOT}/references/guide.md`, `${CLAUDE_SKILL_DIR}/SKILL.md`.
"""
AGENT = "---\nname: helper\ndescription: Helps.\ntools: Bash, Read\nmodel: inherit\ncolor: red\n---\nHelp.\n"
COMMAND = 'python3 "${CLAUDE_PLUGIN_ROOT}/hooks/guard.py"'
HOOKS = {
    "hooks": {
        "PreToolUse": [{"matcher": "Edit|Bash", "hooks": [{"type": "command", "command": COMMAND}]}],
        "SubagentStop": [{"matcher": "^toys:helper$", "hooks": [{"type": "command", "command": COMMAND}]}],
    }
}
PLUGINS = [{"name": "toys", "source": "./"}, {"name": "two", "source": "./two"}]
MARKET = {"name": "shop", "owner": {"name": "o"}, "plugins": PLUGINS}


def put(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A marketplace with two sound plugins, one at its root."""
    root = tmp_path / "shop"
    put(root, ".claude-plugin/marketplace.json", json.dumps(MARKET, indent=1))
    put(root, ".claude-plugin/plugin.json", '{"name": "toys", "version": "0.1.0"}')
    put(root, "skills/toy/SKILL.md", SKILL)
    put(root, "references/guide.md", "A guide.\n")
    put(root, "agents/helper.md", AGENT)
    put(root, "hooks/hooks.json", json.dumps(HOOKS))
    put(root, "hooks/guard.py", "print()\n")
    put(root, "bin/toy", "#!/bin/sh\n")
    (root / "bin/toy").chmod(0o755)
    put(root, "autoexperiment/globs.py", "# globs\n")
    put(root, "two/.claude-plugin/plugin.json", '{"name": "two", "version": "0.1.0"}')
    put(root, "two/agents/other.md", AGENT.replace("helper", "other"))
    put(root, "two/hooks/globs.py", "# globs\n")
    return root


def test_a_sound_marketplace_has_no_finding(shop: Path) -> None:
    assert check_plugin.check(shop) == []


def test_this_repository_has_no_finding() -> None:
    assert [str(finding) for finding in check_plugin.check(ROOT)] == []


def test_the_second_plugin_of_this_repository_is_sound_alone() -> None:
    assert [str(finding) for finding in check_plugin.check(ROOT / "experiment-plugin")] == []


Plant = Callable[[Path], None]


def swap(name: str, old: str, new: str) -> Plant:
    def plant(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text, f"{old!r} is not in {name}: the table is wrong"
        put(root, name, text.replace(old, new, 1))

    return plant


def skill(old: str, new: str) -> Plant:
    return swap("skills/toy/SKILL.md", old, new)


def agent(old: str, new: str) -> Plant:
    return swap("agents/helper.md", old, new)


def hooks(old: str, new: str) -> Plant:
    return swap("hooks/hooks.json", old, new)


def market(old: str, new: str) -> Plant:
    return swap(".claude-plugin/marketplace.json", old, new)


def manifest(old: str, new: str) -> Plant:
    return swap(".claude-plugin/plugin.json", old, new)


def added(name: str, text: str) -> Plant:
    return lambda root: put(root, name, text)


def both(one: Plant, other: Plant) -> Plant:
    def plant(root: Path) -> None:
        one(root)
        other(root)

    return plant


def run_by(hook: str) -> Plant:
    """hooks.json with a hook of its own in place of the first."""
    return swap("hooks/hooks.json", json.dumps({"type": "command", "command": COMMAND}), hook)


def shell(command: str) -> Plant:
    return run_by(json.dumps({"type": "command", "command": command}))


def spoken(hooks: object) -> Plant:
    """plugin.json that speaks of hooks itself."""
    return added(".claude-plugin/plugin.json", json.dumps({"name": "toys", "version": "0.1.0", "hooks": hooks}))


def hooked_skill(script: str, event: str = "Stop") -> Plant:
    lines = f"hooks:\n  {event}:\n    - hooks:\n        - type: command\n          command: '{script}'\n          once: true\n"
    return skill("compatibility: any\n", lines)


S, A, H, M = "skills/toy/SKILL.md", "agents/helper.md", "hooks/hooks.json", ".claude-plugin/marketplace.json"
P = ".claude-plugin/plugin.json"
# what is planted, where it must be found ("path:line"), and what the finding must say
FAULTS: list[tuple[str, Plant, str, str]] = [
    ("no head", skill("---\n", "", ), f"{S}:1", "does not start with a line '---'"),
    ("open head", skill("tags: [a, \"b, c\"]\n---\n", "tags: [a]\n"), f"{S}:1", "no closing line"),
    ("unclosed list", skill("arguments: [tag, dataset]", "arguments: [tag, dataset"), f"{S}:7", "does not close it"),
    ("unclosed quote", skill('"<tag> [dataset]"', '"<tag>'), f"{S}:6", "is not closed"),
    ("a: b: c", skill("compatibility: any", "compatibility: any: thing"), f"{S}:16", "not plain text"),
    ("bare hint", skill('"<tag> [dataset]"', "[tag] (data)"), f"{S}:6", "does not close it"),
    ("twice", skill("effort: max", "model: opus"), f"{S}:12", "a second time"),
    ("no value", skill("compatibility: any", "compatibility:"), f"{S}:16", "no value"),
    ("loose line", skill("effort: max", "effort max"), f"{S}:12", "no 'key: value'"),
    ("tab", skill("  - Read", "\t- Read"), f"{S}:15", "no 'key: value'"),
    ("unknown key", skill("allowed-tools:", "allowed_tools:"), f"{S}:13", "Did you mean 'allowed-tools'"),
    ("bad boolean", skill("invocation: true", "invocation: yes"), f"{S}:8", "true or false"),
    ("quoted boolean", skill("invocation: true", 'invocation: "true"'), f"{S}:8", "true or false"),
    ("bad context", skill("context: fork", "context: split"), f"{S}:9", "context is 'split'"),
    ("bad model", skill("model: opus", "model: gpt"), f"{S}:11", "model is 'gpt'"),
    ("bad effort", skill("effort: max", "effort: huge"), f"{S}:12", "effort is 'huge'"),
    ("unscoped agent", skill("agent: toys:helper", "agent: helper"), f"{S}:10", "agent is 'helper'"),
    ("agent of nobody", skill("agent: toys:helper", "agent: toys:nobody"), f"{S}:10", "agent is 'toys:nobody'"),
    ("agent of another plugin", skill("agent: toys:helper", "agent: two:other"), f"{S}:10", "agent is 'two:other'"),
    ("agent without fork", skill("context: fork\n", ""), f"{S}:9", "without 'context: fork'"),
    ("unknown tool", skill("  - Read", "  - Raed"), f"{S}:13", "Did you mean 'Read'"),
    ("unbalanced", skill("Bash(mlx loop *)", "Bash(mlx loop *"), f"{S}:13", "bracket too many or too few"),
    ("plain Bash", skill("Bash(mlx loop *)", "Bash"), f"{S}:13", "approves every shell command"),
    ("starred Bash", skill("Bash(mlx loop *)", "Bash(*)"), f"{S}:13", "approves every shell command"),
    ("other name", skill("name: toy", "name: toys"), f"{S}:2", "Allowed: 'toy'"),
    ("name with a space", skill("name: toy", "name: my toy"), f"{S}:2", "name is 'my toy'"),
    ("no description", skill("description: >-\n  Plays with toys,\n  all day.\n", ""), f"{S}:1", "has 0 characters"),
    ("long description", skill("all day.", "day. " * 300), f"{S}:3", "Allowed: 1 to 1024"),
    ("long compatibility", skill("compatibility: any", "compatibility: " + "x" * 501), f"{S}:16", "501 characters"),
    ("empty body", lambda root: put(root, S, SKILL[: SKILL.index("# Toys")]), f"{S}:21", "nothing below the head"),
    ("long body", skill("# Toys\n", "line\n" * 201), f"{S}:21", "Allowed: 200"),
    ("positional", skill("tag $tag,", "tag $tag or $1,"), f"{S}:24", "'$1'"),
    ("unused argument", skill("dataset $dataset", "dataset"), f"{S}:7", "$dataset is not in the body"),
    ("bad argument", skill("[tag, dataset]", "[tag, dataset, Two-Words]"), f"{S}:7", "'Two-Words' is no name"),
    ("no $ARGUMENTS", skill("Arguments: $ARGUMENTS, ", ""), f"{S}:7", "The body has no $ARGUMENTS"),
    ("dead link", skill("(../../references/guide.md)", "(../../references/gone.md)"), f"{S}:24", "leads nowhere"),
    ("dead path", skill("ROOT}/references/guide.md", "ROOT}/references/gone.md"), f"{S}:25", "leads nowhere"),
    ("dead skill path", skill("SKILL_DIR}/SKILL.md", "SKILL_DIR}/more.md"), f"{S}:25", "leads nowhere"),
    ("way out", skill("(../../references/guide.md)", "(../../../outside.md)"), f"{S}:24", "lies outside the plugin"),
    ("folder without skill", added("skills/none/skill.md", SKILL), "skills/none:1", "has no SKILL.md"),
    ("not UTF-8", lambda root: (root / S).write_bytes(b"\xff") and None, f"{S}:1", "not UTF-8"),
    ("agent: unknown key", agent("color: red", "colour: red"), f"{A}:6", "Did you mean 'color'"),
    ("agent: ignored key", agent("color: red", "permissionMode: plan"), f"{A}:6", "is ignored in the agent of a plugin"),
    ("agent: bad color", agent("color: red", "color: beige"), f"{A}:6", "color is 'beige'"),
    ("agent: bad isolation", agent("color: red", "isolation: box"), f"{A}:6", "isolation is 'box'"),
    ("agent: bad memory", agent("color: red", "memory: all"), f"{A}:6", "memory is 'all'"),
    ("agent: bad turns", agent("color: red", "maxTurns: 0"), f"{A}:6", "maxTurns is 0"),
    ("agent: true turns", agent("color: red", "maxTurns: true"), f"{A}:6", "Allowed: a number"),
    ("agent: bad model", agent("model: inherit", "model: same"), f"{A}:5", "model is 'same'"),
    ("agent: unknown tool", agent("tools: Bash, Read", "tools: Bash, Reed"), f"{A}:4", "Unknown tool 'Reed'"),
    ("agent: other name", agent("name: helper", "name: aid"), f"{A}:2", "Allowed: 'helper'"),
    ("agent: no body", agent("Help.\n", ""), f"{A}:8", "nothing below the head"),
    ("agent: no description", agent("description: Helps.\n", ""), f"{A}:1", "has 0 characters"),
    ("hooks: no JSON", added(H, "{"), f"{H}:1", "can't be read as hooks"),
    ("hooks: wrong shape", added(H, '{"hooks": {"Stop": [{"command": "x"}]}}'), f"{H}:1", "can't be read as hooks"),
    ("hooks: no script", hooks("hooks/guard.py", "hooks/gard.py"), f"{H}:1", "'hooks/gard.py' does not exist"),
    ("hooks: not quoted", hooks('\\"${CLAUDE_PLUGIN_ROOT}/hooks/guard.py\\"', "${CLAUDE_PLUGIN_ROOT}/hooks/guard.py"),
     f"{H}:1", "is not quoted"),
    ("hooks: not executable", hooks("python3 ", ""), f"{H}:1", "not executable"),
    ("hooks: bad expression", hooks("^toys:helper$", "^(toys"), f"{H}:1", "no regular expression"),
    ("hooks: unknown tool", hooks("Edit|Bash", "Edit|Bsh"), f"{H}:1", "unknown tool 'Bsh'"),
    ("hooks: unknown event", hooks("PreToolUse", "PreToolUsed"), f"{H}:1", "Did you mean 'PreToolUse'"),
    ("hooks: no script of an exec form",
     run_by('{"type": "command", "command": "python3", "args": ["${CLAUDE_PLUGIN_ROOT}/hooks/nope.py"]}'),
     f"{H}:1", "'hooks/nope.py' does not exist"),
    ("hooks: no program of an exec form", run_by('{"type": "command", "command": "${CLAUDE_PLUGIN_ROOT}/x.py", "args": []}'),
     f"{H}:1", "'x.py' does not exist"),
    ("hooks: bare variable", shell('python3 "$CLAUDE_PLUGIN_ROOT/hooks/nope.py"'), f"{H}:1", "'hooks/nope.py' does not exist"),
    ("hooks: path outside the quotes", shell('python3 "${CLAUDE_PLUGIN_ROOT}"/hooks/nope.py'),
     f"{H}:1", "'hooks/nope.py' does not exist"),
    ("hooks: assignment before", shell('A=1 "${CLAUDE_PLUGIN_ROOT}/hooks/guard.py"'), f"{H}:1", "not executable"),
    ("hooks: args are no list", run_by('{"type": "command", "command": "x", "args": 7}'), f"{H}:1", "can't be read as hooks"),
    ("manifest: hooks of its own", spoken({"Stop": [{"hooks": [{"command": '"${CLAUDE_PLUGIN_ROOT}/hooks/nope.py"'}]}]}),
     f"{P}:1", "'hooks/nope.py' does not exist"),
    ("manifest: no file of hooks", spoken("./hooks/more.json"), f"{P}:1", "hooks names './hooks/more.json'"),
    ("manifest: broken file of hooks", both(spoken(["./more.json"]), added("more.json", "{")),
     "more.json:1", "can't be read as hooks"),
    ("skill: no script of a hook", hooked_skill('"${CLAUDE_PLUGIN_ROOT}/hooks/nope.py"'), f"{S}:20", "'hooks/nope.py' does not exist"),
    ("skill: unknown event", hooked_skill("true", "Stopp"), f"{S}:17", "Did you mean 'Stop'"),
    ("dead path without braces", skill("`${CLAUDE_SKILL_DIR}", "$CLAUDE_PLUGIN_ROOT/gone.md `${CLAUDE_SKILL_DIR}"), f"{S}:25",
     "'gone.md' leads nowhere"),
    ("dead quoted resource", skill("# Toys", "# Toys `references/gone.md`"), f"{S}:22", "'references/gone.md' leads nowhere"),
    ("dead path of a grant", skill("Bash(mlx loop *)", "Bash(python3 ${CLAUDE_PLUGIN_ROOT}/gone.py *)"), f"{S}:13",
     "'gone.py' leads nowhere"),
    ("grant of everything", skill("Bash(mlx loop *)", "Bash(**)"), f"{S}:13", "approves every shell command"),
    ("grant of everything, with a blank", skill("Bash(mlx loop *)", '"Bash( *)"'), f"{S}:13", "approves every shell command"),
    ("model of no family", skill("model: opus", "model: claude-oops"), f"{S}:11", "model is 'claude-oops'"),
    ("undeclared argument", skill("tag $tag,", "tag $tag, of $owner,"), f"{S}:24", "'$owner' is no argument"),
    ("market: vendor's name", market('"shop"', '"life-sciences"'), f"{M}:2", "called 'life-sciences'"),
    ("market: no plugins", added(M, '{"name": "shop",\n"plugins": null}'), f"{M}:2", "plugins is None"),
    ("market: plugins of text", added(M, '{"name": "shop",\n"plugins": ["./two"]}'), f"{M}:2", "plugins is ['./two']"),
    ("bin: not executable", lambda root: (root / "bin/toy").chmod(0o644), "bin/toy:1", "not executable"),
    ("bin: no interpreter", lambda root: (root / "bin/toy").write_text("echo\n") and None, "bin/toy:1", "'#!'"),
    ("misplaced folder", added(".claude-plugin/skills/x/SKILL.md", SKILL), ".claude-plugin/skills:1", "one folder up"),
    ("manifest: no JSON", added(P, "{"), f"{P}:1", "can't be read"),
    ("manifest: name", manifest("toys", "My Toys"), f"{P}:1", "name is 'My Toys'"),
    ("manifest: version", manifest("0.1.0", "abc"), f"{P}:1", "version is 'abc'"),
    ("market: no JSON", added(M, "[]"), f"{M}:1", "no object"),
    ("market: name", market('"shop"', '"claude-plugins-official"'), f"{M}:2", "called 'claude-plugins-official'"),
    ("market: no such source", market('"./two"', '"./three"'), f"{M}:13", "holds no plugin"),
    ("market: bare source", market('"./two"', '"two"'), f"{M}:13", "holds no plugin"),
    ("market: other name", market('"name": "two"', '"name": "too"'), f"{M}:13", "The entry says name 'too'"),
    ("market: other version", market('"name": "two"', '"version": "9.0.0", "name": "two"'), f"{M}:13", "'9.0.0'"),
    ("globs grew apart", added("two/hooks/globs.py", "# other\n"), "two/hooks/globs.py:1", "cp autoexperiment/globs.py"),
    ("no skill", lambda root: (root / S).unlink(), ".:1", "No skill was found"),
]  # fmt: skip


@pytest.mark.parametrize(("plant", "place", "words"), [fault[1:] for fault in FAULTS], ids=[f[0] for f in FAULTS])
def test_planted_fault_is_found_where_it_stands(shop: Path, plant: Plant, place: str, words: str) -> None:
    put(shop.parent, "outside.md", "outside\n")
    plant(shop)

    found = [str(finding) for finding in check_plugin.check(shop)]

    assert [finding for finding in found if finding.startswith(f"{place}: ") and words in finding], found


SOUND: list[tuple[str, Plant]] = [
    ("matcher for all", hooks("Edit|Bash", "*")),
    ("named group", hooks("^toys:helper$", "^(?<who>toys):helper\\\\k<who>(?<!x)$")),
    ("exec form", run_by('{"type": "command", "command": "python3", "args": ["${CLAUDE_PLUGIN_ROOT}/hooks/guard.py"]}')),
    ("program of an exec form", run_by('{"type": "command", "command": "${CLAUDE_PLUGIN_ROOT}/bin/toy", "args": []}')),
    ("hooks of a skill", hooked_skill('python3 "${CLAUDE_PLUGIN_ROOT}/hooks/guard.py"')),
    ("hooks of the manifest", spoken({"hooks": {"Stop": [{"hooks": [{"type": "command", "command": COMMAND}]}]}})),
    ("file of hooks", spoken("./hooks/hooks.json")),
    ("dated model", skill("model: opus", "model: claude-3-5-sonnet-20241022")),
    ("model with a long context", skill("model: opus", "model: claude-opus-4-5[1m]")),
    ("a shell's own variables", skill("# Toys\n", "# Toys\n```\nfor f in *; do echo $f; done\n```\n")),
    ("money and the environment", skill("# Toys", "# Toys for \\\\$five, $HOME")),
    ("resource of the plugin", skill("# Toys", "# Toys `references/guide.md`")),
    ("file of a project", skill("# Toys", "# Toys `src/gone.py`")),
    ("grant of one script", skill("Bash(mlx loop *)", "Bash(${CLAUDE_PLUGIN_ROOT}/bin/toy *)")),
]  # fmt: skip


@pytest.mark.parametrize("plant", [case[1] for case in SOUND], ids=[case[0] for case in SOUND])
def test_what_the_client_takes_is_no_finding(shop: Path, plant: Plant) -> None:
    plant(shop)

    assert [str(finding) for finding in check_plugin.check(shop)] == []


def test_folder_without_any_plugin_is_a_fault(tmp_path: Path) -> None:
    found = [str(finding) for finding in check_plugin.check(tmp_path)]

    assert any("neither plugin.json nor marketplace.json" in finding for finding in found)
    assert any("No skill was found" in finding for finding in found)


def test_every_finding_says_what_is_allowed(shop: Path) -> None:
    for _, plant, _, _ in FAULTS[:10]:
        plant(shop)
        put(shop, S, SKILL)
    put(shop, A, AGENT.replace("red", "beige"))

    found = check_plugin.check(shop)

    assert found
    assert all(finding.allowed.startswith(("Allowed: ", "Type: ", "Known: ", "Did you mean ")) for finding in found)


def test_self_test_finds_its_planted_faults() -> None:
    answer = command("--self-test")

    assert answer.returncode == 0
    assert answer.stdout == f"All {len(check_plugin.PLANTS)} planted faults were found.\n"


def test_self_test_fails_when_a_check_is_blind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_plugin, "check_agent", lambda path, plugin: [])

    assert check_plugin.self_test() == ["not found: 'tools: Raed' in agents/helper.md"]


def command(*words: str) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "scripts" / "check_plugin.py")
    return subprocess.run([sys.executable, "-S", script, *words], capture_output=True, text=True)


def test_command_prints_findings_as_lines_and_fails(shop: Path) -> None:
    skill("model: opus", "model: gpt")(shop)

    answer = command(str(shop))

    assert answer.returncode == 1
    assert answer.stdout.startswith(f"{S}:11: model is 'gpt'. Allowed: sonnet,")
    assert answer.stdout.endswith(f"Faults in {shop}: 1.\n")


def test_command_prints_findings_as_json(shop: Path) -> None:
    skill("model: opus", "model: gpt")(shop)

    answer = command("--json", str(shop))

    assert answer.returncode == 1
    assert [(f["path"], f["line"]) for f in json.loads(answer.stdout)["findings"]] == [(S, 11)]


def test_command_accepts_a_sound_plugin(shop: Path) -> None:
    answer = command(str(shop))

    assert (answer.returncode, answer.stdout) == (0, f"Faults in {shop}: 0.\n")


def test_command_refuses_a_folder_that_is_not_there(tmp_path: Path) -> None:
    answer = command(str(tmp_path / "gone"))

    assert answer.returncode == 2
    assert "There is no folder" in answer.stderr


def test_head_is_read_with_its_types() -> None:
    head = frontmatter.parse(SKILL)

    assert head.values["description"] == "Plays with toys, all day."
    assert head.values["arguments"] == ["tag", "dataset"]
    assert head.values["disable-model-invocation"] is True
    assert head.values["allowed-tools"] == ["Bash(mlx loop *)", "Read"]
    assert head.values["metadata"] == {"category": "toys", "tags": ["a", "b, c"]}
    assert (head.line("model"), head.body_line) == (11, 21)


def test_comments_and_quotes_are_read_as_yaml_does() -> None:
    head = frontmatter.parse("---\n# a comment\na: 'it''s'\nb: x # not part\nc: 12\nd: |\n  one\n  two\n---\n")

    assert head.values == {"a": "it's", "b": "x", "c": 12, "d": "one\ntwo"}


@pytest.mark.parametrize(
    "line", ["a: &x y", "a: *x", "a: {b: c}", "a: @x", "a: 'x' y", "a: [b, [c]]", "a: [b,, c]", "? a"]
)
def test_yaml_outside_the_small_part_is_refused(line: str) -> None:
    with pytest.raises(frontmatter.Malformed) as fault:
        frontmatter.parse(f"---\n{line}\n---\n")

    assert fault.value.line == 2


def test_lists_and_mappings_stand_inside_each_other() -> None:
    lines = [
        "Stop:",
        "- matcher: '*'",
        "  hooks:",
        "    - type: command",
        "      timeout: 5",
        "    - type: prompt",
        "Setup: x",
    ]

    head = frontmatter.parse("---\nhooks:\n" + "".join(f"  {line}\n" for line in lines) + "---\n")

    asked = [{"type": "command", "timeout": 5}, {"type": "prompt"}]
    assert head.values == {"hooks": {"Stop": [{"matcher": "*", "hooks": asked}], "Setup": "x"}}


def test_uneven_nested_values_are_refused() -> None:
    for block in (
        "a:\n  - b\n  c: d\n",
        "a:\n    b: c\n  d: e\n",
        "a:\n  b: c\n    d: e\n",
        "a:\n  b: c\n  b: d\n",
        "a:\n  b:\n",
    ):
        with pytest.raises(frontmatter.Malformed):
            frontmatter.parse(f"---\n{block}---\n")
