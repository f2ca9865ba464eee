"""Every name that can be swapped in, with a line and a reference: what ``pyrovae list`` prints."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

from pyrovae import datasets, elbos, likelihoods, mechanism, networks, posteriors, priors

Entry = dict[str, str]


def board() -> dict[str, dict[str, Entry]]:
    """Family -> name -> summary, arguments and reference.

    >>> board()["likelihoods"]["bernoulli"]["summary"]
    'Bernoulli likelihood of binary data, by its logit.'
    """
    families = {
        "priors": priors.FAMILY,
        "likelihoods": likelihoods.FAMILY,
        "posteriors": posteriors.FAMILY,
        "encoders": networks.ENCODERS,
        "decoders": networks.DECODERS,
        "mechanisms": mechanism.FAMILY,
    }
    known = {"in_shape", "event_shape", "condition_dim"}
    result = {
        family: {name: _describe(constructor, known) for name, constructor in members.items()}
        for family, members in families.items()
    }
    known |= {"num_particles", "max_plate_nesting"}
    result["elbos"] = {
        name: {"summary": elbos.ABOUT[name].summary, "arguments": "", "reference": elbos.ABOUT[name].reference}
        if name in elbos.ABOUT
        else _describe(estimator, known)
        for name, estimator in elbos.FAMILY.items()
    }
    result["datasets"] = {
        name: {"summary": source.summary, "arguments": "", "reference": source.reference}
        for name, source in datasets.DATASETS.items()
    }
    return result


def _describe(constructor: Callable[..., object], known: set[str]) -> Entry:
    """First line, own arguments and first link of a docstring."""
    text = inspect.getdoc(constructor) or ""
    first = text.split("\n\n")[0].replace("\n", " ")
    link = re.search(r"https?://[^\s)]+(?<![.,;:])", text[max(text.find("\nReference"), 0) :])
    arguments = [
        f"{name}={p.default!r}"
        for name, p in inspect.signature(constructor).parameters.items()
        if name not in known and not callable(p.default)
    ]
    # Formulas and shapes are for the documentation.
    words = re.sub(r"[,:]?\s*:math:`[^`]*`", "", first.split(": ``")[0].split("``")[0])
    return {
        "summary": words.strip().rstrip(":.,;") + ".",
        "arguments": ", ".join(arguments),
        "reference": link.group() if link else "",
    }


def table() -> str:
    """The board as text."""
    lines, families = [], board()
    width = 2 + max(len(name) for members in families.values() for name in members)
    for family, members in families.items():
        lines += ["", family]
        for name, entry in members.items():
            lines.append(f"  {name:<{width}}{entry['summary']}  {entry['reference']}".rstrip())
            if entry["arguments"]:
                lines.append(f"  {'':<{width}}({entry['arguments']})")
    return "\n".join(lines[1:])
