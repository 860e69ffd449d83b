"""A small text task for trying things out: answer a greeting with "Hello, World!", and anything else with "Goodbye."

Both kinds of prompt come in four languages, name the same people and end in the same ways, so that only the words of
the greeting tell them apart. There are 2,560 different prompts, half of them greetings, and no prompt comes twice.
"""

from __future__ import annotations

import hashlib
from itertools import product

from autoexperiment.errors import UsageError
from autoexperiment.workflow.backends.base import EvalTask

GREETING, OTHER = "Hello, World!", "Goodbye."

_GREETINGS = (
    "Good morning {}", "Welcome back {}", "Bonjour et bienvenue {}", "Salut à toi {}", "Guten Tag {}",
    "Hallo und willkommen {}", "Buenos días {}", "Hola qué tal {}",
)  # fmt: skip
_OTHERS = (
    "The train leaves without {}", "Nobody has seen {}", "Le livre appartient à {}", "Demain il pleut chez {}",
    "Das Fenster schließt {}", "Der Zug wartet auf {}", "La mesa es de {}", "Mañana trabaja {}",
)  # fmt: skip
_PEOPLE = (
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Hugo", "Ida", "Jonas", "Karla", "Leo", "Mia", "Nils",
    "Olga", "Paul", "Rosa", "Simon", "Tara", "Viktor", "Ada", "Alan", "Barbara", "Claude", "Dorothy", "Edsger",
    "Frances", "Grace", "Hedy", "John", "Katherine", "Linus", "Margaret", "Niklaus", "Radia", "Sophie", "Tim",
    "Ursula", "Wilma", "Yann",
)  # fmt: skip
_ENDINGS = (".", "!", " again.", " today.")


def generate_hello_world_dataset(num_samples: int = 100, seed: int = 0) -> list[dict[str, str]]:
    """Rows of a prompt and the completion that is wanted, half of them greetings, in an order that the seed gives.

    The same arguments give the same rows on every machine; fewer rows of a seed are the first ones of more.
    Raises: UsageError: an argument is no whole number of the allowed ones.
    """
    greetings, others = (_prompts(patterns) for patterns in (_GREETINGS, _OTHERS))
    _check("num_samples", num_samples, least=2, most=2 * len(greetings))
    _check("seed", seed, least=0, most=2**63 - 1)
    rows = zip(_shuffled(greetings, seed), _shuffled(others, seed), strict=True)
    both = [row for greeting, other in rows for row in (_row(greeting, GREETING), _row(other, OTHER))]
    return both[:num_samples]


def hello_world(split: str = "test") -> EvalTask:
    """How often the answers to one part of the rows are the ones that are wanted. `split`: "train", "val" or "test"."""
    return EvalTask("hello_world", metrics=("accuracy", "f1_score"), split=split)


def _check(name: str, value: object, *, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise UsageError(
            f"{name} of the hello-world dataset is {value!r}. Allowed: whole numbers from {least} to {most}."
        )


def _prompts(patterns: tuple[str, ...]) -> list[str]:
    return [pattern.format(person) + ending for pattern, person, ending in product(patterns, _PEOPLE, _ENDINGS)]


def _shuffled(prompts: list[str], seed: int) -> list[str]:
    """In the order of their hashes: no generator's version changes it."""
    return sorted(prompts, key=lambda prompt: hashlib.sha256(f"{seed}\n{prompt}".encode()).digest())


def _row(prompt: str, completion: str) -> dict[str, str]:
    return {"prompt": prompt, "completion": completion}
