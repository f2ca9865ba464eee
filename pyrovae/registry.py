"""Names for swappable parts: ``"gaussian"``, ``"gaussian(scale=network)"`` and the saved JSON all mean one object."""

from __future__ import annotations

import ast
import difflib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Family = Mapping[str, Callable[..., Any]]


def choose(name: str, names: Iterable[str], kind: str) -> str:
    """``name`` if it is one of ``names``; otherwise a ValueError that lists them."""
    names = sorted(names)
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown {kind} {name!r}: expected one of {', '.join(names)}.{hint}")


def parse(text: str, kind: str) -> tuple[str, dict[str, Any]]:
    """Split ``"name(key=value, ...)"`` into a name and its arguments; bare words are strings.

    >>> parse("gaussian(scale=network, floor=0.01)", "likelihood")
    ('gaussian', {'scale': 'network', 'floor': 0.01})
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            return node.func.id, {str(k.arg): _literal(k.value) for k in node.keywords}
    except (SyntaxError, ValueError):
        pass
    raise ValueError(f"cannot read the {kind} {text!r}: expected a name or name(key=value, ...)")


def _literal(node: ast.expr) -> object:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


def make(value: Any, family: Family, kind: str, **context: Any) -> Any:  # noqa: ANN401 - any object passes through
    """An object from its name, from ``name(key=value)`` or from its saved ``config``; objects pass through.

    ``context`` holds what the caller knows (sizes); a constructor is given the part of it that it asks for.
    """
    if isinstance(value, Mapping):
        name, arguments = str(value["name"]), {k: v for k, v in value.items() if k != "name"}
    elif isinstance(value, str):
        name, arguments = parse(value, kind)
    elif isinstance(value, type):
        raise ValueError(
            f"{kind}: expected a name or an object, got the class {value.__name__}: write {value.__name__}()"
        )
    else:
        return value
    constructor = family[choose(name, family, kind)]
    accepted = inspect.signature(constructor).parameters
    for key in arguments:
        if key not in accepted:
            expected = ", ".join(k for k in accepted if k not in context) or "no arguments"
            raise ValueError(f"{kind} {name!r} has no argument {key!r}: expected {expected}")
    known = {k: v for k, v in context.items() if k in accepted}
    return constructor(**{**known, **arguments})


def config(value: object, family: Family) -> dict[str, Any] | None:
    """The JSON form of an object that `make` turns back into its like; None for a class that is not in ``family``, and
    for one that was made with an argument that JSON does not hold.

    Each constructor argument is kept under its own name as an attribute (scikit-learn's convention).
    """
    for name, constructor in family.items():
        if type(value) is constructor:
            arguments = inspect.signature(constructor).parameters
            result = {"name": name, **{key: getattr(value, key) for key in arguments}}
            try:
                json.dumps(result)
            except TypeError:
                return None
            return result
    return None
