"""Picks those of Trine's engines that take part, as the command line names them."""

import re
from collections.abc import Sequence
from pathlib import Path

from backends.contract import EngineChoice
from trine.kernels.cpu.library import is_compiled
from trine.runtime.bundle.bundle import open_bundle
from trine.runtime.engines.native.entries import runs_here
from trine.runtime.engines.select import engine_named, engines_of

__all__ = ["choose_engines"]

WORDS = re.compile(r"(?:(?P<label>[\w.-]+)=)?(?P<name>[\w.-]+)(?:@(?P<bundle>.+))?")


def choose_engines(words: Sequence[str], bundle: Path) -> tuple[EngineChoice, ...]:
    """Return the engines named as [LABEL=]NAME[@BUNDLE]; all of `bundle` that run here for none.

    Args:
        words: one an engine.
        bundle: where a word names none.

    Raises:
        ValueError: a word is of another form, two have the same label, or native engines would be
            left out because nobody compiled the kernels.
        BundleError: a bundle is unusable or has no such engine.
    """
    choices = [_choice(word, bundle) for word in words or _engine_names(bundle)]
    labels = [choice.label for choice in choices]
    if len(set(labels)) < len(labels):
        raise ValueError(f"engines {labels} share a label; give them others as LABEL=NAME")
    return tuple(choices)


def _engine_names(bundle: Path) -> list[str]:
    engines = engines_of(open_bundle(bundle))
    native = [entry.name for entry in engines if entry.runner == "native"]
    if native and not is_compiled():
        raise ValueError(
            f"{', '.join(native)} would be left out: the kernels here are not compiled; "
            "run `python setup.py build_ext --inplace` in the checkout, or choose by --engine"
        )
    return [entry.name for entry in engines if runs_here(entry)]


def _choice(word: str, bundle: Path) -> EngineChoice:
    match = WORDS.fullmatch(word)
    if match is None:
        raise ValueError(f"--engine is {word!r}; write [LABEL=]NAME[@BUNDLE]")
    folder = Path(match["bundle"] or bundle).resolve()
    entry = engine_named(open_bundle(folder), match["name"])
    label = match["label"] or entry.name
    return EngineChoice(label=label, name=entry.name, bundle=folder, precision=entry.precision)
