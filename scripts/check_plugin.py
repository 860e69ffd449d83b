"""Find what is wrong with Claude Code plugins and their marketplace, beyond what `claude plugin validate` sees.

Usage: python3 scripts/check_plugin.py [--json] [--self-test] [DIR]

DIR (default: the repository of this script) holds .claude-plugin/ with plugin.json, marketplace.json or both. Finding no
skill at all is a fault. Exit codes: 0 nothing found, 1 something found, 2 wrong usage. Runs on a bare python3.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from plugin_hooks import check_hooks, check_manifest_hooks, check_skill_hooks
from plugin_parts import NAME, Finding, Plugin, check_agent, check_skill, line_of

ROOT = Path(__file__).resolve().parent.parent
META = ".claude-plugin"
META_FILES = ("plugin.json", "marketplace.json", "icon.png", "icon.svg")
# what client 2.1.329 keeps for its vendor's own marketplaces, in any case of letters
RESERVED = (
    "agent-skills", "anthropic-agent-skills", "anthropic-marketplace", "anthropic-plugin-directory",
    "anthropic-plugins", "claude-code-marketplace", "claude-code-plugins", "claude-community",
    "claude-for-financial-services", "claude-for-legal", "claude-plugin-directory", "claude-plugins-community",
    "claude-plugins-official", "claude-tag-plugins", "financial-services-plugins", "first-party-plugins", "healthcare",
    "inline", "knowledge-work-plugins", "life-sciences",
)  # fmt: skip
VERSION = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")


def check(root: Path) -> list[Finding]:
    """Every finding in a folder, in the order of its files; paths are relative to it."""
    found, folders = _check_marketplace(root)
    for folder in folders:
        name, faults = _check_manifest(folder)
        agents = tuple(f"{name}:{file.stem}" for file in sorted(folder.glob("agents/*.md")))
        found += [*faults, *_check_plugin(Plugin(folder, name, agents))]
    found += _check_skills_exist(root, folders)
    found += _check_globs(root, folders)
    return [Finding(_shown(finding.path, root), finding.line, finding.what, finding.allowed) for finding in found]


def _shown(path: str, root: Path) -> str:
    return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path


def _load(path: Path) -> tuple[dict[str, Any], list[Finding]]:
    """A JSON object, or why it is none."""
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        return {}, [Finding(str(path), getattr(fault, "lineno", 1), f"It can't be read: {fault}.", "Allowed: JSON.")]
    return (made, []) if isinstance(made, dict) else ({}, [Finding(str(path), 1, "It is no object.", "Allowed: {…}.")])


# ---- marketplace and manifests


def _check_marketplace(root: Path) -> tuple[list[Finding], list[Path]]:
    """What is wrong with marketplace.json, and the plugins' folders: the root's own and those that it lists."""
    path = root / META / "marketplace.json"
    own = [root] if (root / META / "plugin.json").exists() else []
    if not path.exists():
        missing = Finding(
            str(root / META), 1, "There is neither plugin.json nor marketplace.json.", "Allowed: one, or both."
        )
        return ([] if own else [missing]), own
    market, found = _load(path)
    text = path.read_text(encoding="utf-8")
    name = market.get("name", "")
    if not _is_name(name) or name in RESERVED:
        what = f"The marketplace is called {name!r}."
        found.append(
            Finding(str(path), line_of(text, '"name"'), what, "Allowed: a-z, 0-9, hyphens; no name of the vendor's.")
        )
    folders, entries = list(own), market.get("plugins")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        what = f"plugins is {entries!r:.60}."
        found.append(Finding(str(path), line_of(text, '"plugins"'), what, "Allowed: a list of objects."))
        return found, folders
    for entry in entries:
        found += _check_entry(entry, path, text, folders)
    return found, folders


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and NAME.fullmatch(name) is not None


def _check_entry(entry: dict[str, Any], path: Path, text: str, folders: list[Path]) -> Iterator[Finding]:
    """Adds the folder of an entry with a local source to `folders`."""
    source, name = entry.get("source"), entry.get("name", "")
    if not isinstance(source, str):
        return
    folder = path.parent.parent / source
    stated = re.search(rf'"source"\s*:\s*{re.escape(json.dumps(source))}', text)
    line = line_of(text, stated.group() if stated else "")
    if not source.startswith("./") or ".." in source or not (folder / META / "plugin.json").is_file():
        what = f"The source {source!r} of plugin {name!r} holds no plugin."
        yield Finding(str(path), line, what, "Allowed: './' and a folder with .claude-plugin/plugin.json.")
        return
    folder = folder.resolve() if folder.resolve() != path.parent.parent.resolve() else path.parent.parent
    if folder not in folders:
        folders.append(folder)
    manifest, _ = _load(folder / META / "plugin.json")
    for key in ("name", "version"):
        if key in entry and manifest.get(key) != entry[key]:
            what = f"The entry says {key} {entry[key]!r}, its plugin.json {manifest.get(key)!r}."
            yield Finding(str(path), line, what, "Allowed: the same, or no version here.")


def _check_manifest(folder: Path) -> tuple[str, list[Finding]]:
    path = folder / META / "plugin.json"
    manifest, found = _load(path)
    name, version = manifest.get("name", ""), manifest.get("version", "")
    if found:
        return "", found
    text = path.read_text(encoding="utf-8")
    if not _is_name(name):
        found.append(
            Finding(str(path), line_of(text, '"name"'), f"name is {name!r}.", "Allowed: a-z, 0-9 and hyphens.")
        )
    if not isinstance(version, str) or not VERSION.fullmatch(version):
        what = f"version is {version!r}."
        found.append(Finding(str(path), line_of(text, '"version"'), what, "Allowed: a version such as '0.1.0'."))
    return name, found


# ---- one plugin


def _check_plugin(plugin: Plugin) -> Iterator[Finding]:
    yield from _check_meta_folder(plugin)
    yield from _check_bin(plugin)
    for folder in sorted(entry for entry in plugin.folder.glob("skills/*") if entry.is_dir()):
        yield from _check_skill_folder(folder, plugin)
    for file in sorted(plugin.folder.glob("agents/*.md")):
        yield from check_agent(file, plugin)
    manifest, faults = _load(plugin.folder / META / "plugin.json")
    if not faults and "hooks" in manifest:
        yield from check_manifest_hooks(plugin.folder / META / "plugin.json", plugin)
    hooks = plugin.folder / "hooks" / "hooks.json"
    if hooks.exists():
        yield from check_hooks(hooks, plugin)


def _check_meta_folder(plugin: Plugin) -> Iterator[Finding]:
    for entry in sorted((plugin.folder / META).iterdir()):
        if entry.name not in META_FILES:
            what = f"{entry.name!r} stands inside {META}, where the client looks for nothing but manifests."
            yield Finding(str(entry), 1, what, "Allowed: one folder up.")


def _check_bin(plugin: Plugin) -> Iterator[Finding]:
    for file in sorted(entry for entry in plugin.folder.glob("bin/*") if entry.is_file()):
        if not file.stat().st_mode & 0o111:
            yield Finding(str(file), 1, f"bin/{file.name} is not executable.", f"Type: chmod +x bin/{file.name}")
        if not file.read_bytes().startswith(b"#!"):
            yield Finding(
                str(file), 1, f"bin/{file.name} does not start with '#!'.", "Allowed: a script with its interpreter."
            )


def _check_skill_folder(folder: Path, plugin: Plugin) -> list[Finding]:
    if "SKILL.md" in {entry.name for entry in folder.iterdir()}:
        return [*check_skill(folder / "SKILL.md", plugin), *check_skill_hooks(folder / "SKILL.md", plugin)]
    return [
        Finding(
            str(folder),
            1,
            "The folder has no SKILL.md, and the client passes over it.",
            "Allowed: SKILL.md, in capitals.",
        )
    ]


def _check_skills_exist(root: Path, folders: list[Path]) -> Iterator[Finding]:
    if not any(True for folder in folders for _ in folder.glob("skills/*/SKILL.md")):
        yield Finding(
            str(root),
            1,
            "No skill was found at all.",
            "Allowed: skills/<name>/SKILL.md in a plugin. Type: the plugin's folder.",
        )


def _check_globs(root: Path, folders: list[Path]) -> Iterator[Finding]:
    """A plugin's hooks read globs with a copy of the package's module, which must not grow apart."""
    original = root / "autoexperiment" / "globs.py"
    for copy in (folder / "hooks" / "globs.py" for folder in folders):
        if original.exists() and copy.exists() and original.read_bytes() != copy.read_bytes():
            yield Finding(
                str(copy),
                1,
                "It differs from autoexperiment/globs.py.",
                f"Type: cp autoexperiment/globs.py {_shown(str(copy), root)}",
            )


# ---- the self-test

PLANTS = (
    ("skills/toy/SKILL.md", "name: toy", "name: toys", "'toys'"),
    ("skills/toy/SKILL.md", "name: toy", "name: [toy", "opens a list"),
    ("skills/toy/SKILL.md", "allowed-tools", "alowed-tools", "Unknown key 'alowed-tools'"),
    ("skills/toy/SKILL.md", "true", "yes", "'yes'"),
    ("skills/toy/SKILL.md", "agent: toys:helper", "agent: helper", "general-purpose"),
    ("skills/toy/SKILL.md", "$tag", "$1", "'$1'"),
    ("agents/helper.md", "tools: Read", "tools: Raed", "'Raed'"),
    (f"{META}/plugin.json", "0.1.0", "abc", "'abc'"),
)
TOY = {
    f"{META}/plugin.json": '{"name": "toys", "version": "0.1.0"}\n',
    "skills/toy/SKILL.md": "---\nname: toy\ndescription: Plays.\narguments: [tag]\ndisable-model-invocation: true\n"
    "context: fork\nagent: toys:helper\nallowed-tools: Read\n---\nArguments: $ARGUMENTS, tag $tag.\n",
    "agents/helper.md": "---\nname: helper\ndescription: Helps.\ntools: Read\n---\nHelp.\n",
}


def write_toy(folder: Path) -> None:
    """A small plugin without a fault."""
    for name, text in TOY.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def self_test() -> list[str]:
    """Planted faults that were not found, and findings in a plugin that has none."""
    home = Path(tempfile.mkdtemp())
    try:
        write_toy(home)
        missed = [f"found in a sound plugin: {finding}" for finding in check(home)]
        for name, old, new, wanted in PLANTS:
            (home / name).write_text(TOY[name].replace(old, new), encoding="utf-8")
            if not any(wanted in str(finding) for finding in check(home)):
                missed.append(f"not found: {new!r} in {name}")
            (home / name).write_text(TOY[name], encoding="utf-8")
        return missed
    finally:
        shutil.rmtree(home)


# ---- the command


def main(argv: list[str]) -> int:
    """Parse, check, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", metavar="DIR", nargs="?", type=Path, default=ROOT)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--self-test", action="store_true", help="plant faults in a plugin of its own, and find them")
    options = parser.parse_args(argv)
    if options.self_test:
        missed = self_test()
        print("\n".join(missed) or f"All {len(PLANTS)} planted faults were found.")
        return 1 if missed else 0
    if not options.folder.is_dir():
        parser.error(f"There is no folder {options.folder}. Name one that holds a plugin.")
    found = check(options.folder.absolute())
    if options.json:
        print(json.dumps({"findings": [asdict(finding) for finding in found]}, indent=2))
    else:
        print("\n".join([*map(str, found), f"Faults in {options.folder}: {len(found)}."]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
