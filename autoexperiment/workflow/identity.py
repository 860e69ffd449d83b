"""All that decides what comes out of a workflow: its configuration, and what that points to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoexperiment.workflow import atoms, sources
from autoexperiment.workflow.steps import Reads, Workflow


@dataclass
class Identity:
    """Identities of one workflow's configurations. Whatever they point to is looked at once: what is edited while a
    sweep goes on changes none of its points' names.

    Attributes:
        given: atoms, as `atoms.checked` gives them.
    """

    workflow: Workflow
    given: Mapping[str, Any]
    root: Path
    _contents: dict[str, Any] = field(default_factory=dict)
    _code: dict[tuple[str, ...], dict[str, str]] = field(default_factory=dict)
    _files: dict[str, str] = field(default_factory=dict)
    _reads: Reads | None = None
    _last: tuple[Mapping[str, Any], dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        self._reads = self.workflow.reads(self.root) if self.workflow.reads else None

    def of(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Everything of a checked configuration, and of what it points to, but for labels; plain JSON.

        Raises: LabError: it can't be run here.
        """
        deciding: Any = config
        for label in self.workflow.labels:
            deciding = _without(deciding, label.split("."))
        return {
            "workflow": self.workflow.name,
            "config": deciding,
            "code": self._code_of(config),
            "files": self._files_of(deciding),
            "reads": self.read(config),
            "atoms": {name: self._content(name) for name in self.given},
        }

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """What `Workflow.reads` tells. Raises: LabError: the configuration can't be run here."""
        if self._reads is None:
            return {}
        if self._last is None or self._last[0] != config:  # a point is checked, then identified
            self._last = (config, self._reads(config))
        return self._last[1]

    def _code_of(self, config: Mapping[str, Any]) -> dict[str, str]:
        modules = [step.function.__module__ for step in self.workflow.steps]
        names = tuple(sorted({*modules, *sources.words(dict(config))}))
        if names not in self._code:
            self._code[names] = sources.of_modules(names)
        return self._code[names]

    def _files_of(self, config: Any) -> dict[str, str]:
        found = {}
        for text in sources.texts(config):
            if text not in self._files:
                self._files[text] = sources.of_file(text, root=self.root)
            found[text] = self._files[text]
        return {text: digest for text, digest in found.items() if digest}

    def _content(self, name: str) -> Any:
        if name not in self._contents:
            self._contents[name] = atoms.content(self.given[name])
        return self._contents[name]


def _without(config: Any, names: list[str]) -> Any:
    """A copy without the value at a path, if there is one."""
    if not isinstance(config, Mapping) or names[0] not in config:
        return config
    rest = {name: value for name, value in config.items() if name != names[0]}
    return rest if len(names) == 1 else {**rest, names[0]: _without(config[names[0]], names[1:])}
