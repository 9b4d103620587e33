"""Targets from spelling instead of pronunciation: characters and sentencepiece BPE pieces."""

import io
import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase

from ser.errors import UserError
from ser.lang.units import UNK

WORD_SEPARATOR = "|"
SENTENCE_MARKS = ("<s>", "</s>")


def char_units(
    words: Mapping[str, Sequence[str]], language: str
) -> tuple[list[str], dict[str, list[str]]]:
    """Make the inventory (without blank) and each utterance's characters, ``|`` between words.

    The inventory is the vocabulary of wav2vec 2.0's English CTC models, used by Cai et al. (2021):
    including the blank, there called ``<pad>``, 32 symbols: ``<s>``, ``</s>``, ``<unk>``, ``|``, A
    to Z and the apostrophe. ``<s>`` and ``</s>`` occur in no target but are outputs, as in these
    models. In languages other than English the corpus' further characters follow in C order;
    in English they become ``<unk>``.
    """
    inventory = [*SENTENCE_MARKS, UNK, WORD_SEPARATOR, *ascii_uppercase, "'"]
    if language != "en":
        seen = {char for target in words.values() for word in target for char in word}
        inventory += sorted(seen - set(inventory))
    known = set(inventory)
    units = {
        utt: [char if char in known else UNK for char in WORD_SEPARATOR.join(target)]
        for utt, target in words.items()
    }
    return inventory, units


def bpe_units(
    words: Mapping[str, Sequence[str]], size: int
) -> tuple[list[str], dict[str, list[str]], bytes]:
    """Train BPE: inventory of ``size`` pieces with ``<unk>``, each utterance's pieces, the model.

    The tokenizer is trained on the transcripts of the whole corpus, including those of the test
    speakers of every fold (but not their audio or labels).

    Raises UserError if the corpus does not allow exactly ``size`` pieces; the message gives the
    largest or smallest possible size.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([" ".join(target) for target in words.values() if target]),
            model_writer=model,
            model_type="bpe",
            vocab_size=size,
            character_coverage=1.0,
            normalization_rule_name="identity",  # words are already normalised
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as err:
        raise UserError(f"--bpe-size {size}: {_explain(str(err))}") from err
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    inventory = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    units = {
        utt: processor.encode(" ".join(target), out_type=str) if target else []
        for utt, target in words.items()
    }
    return inventory, units, model.getvalue()


def _explain(message: str) -> str:
    if largest := re.search(r"value <= (\d+)", message):
        return f"this corpus has too little text; the largest possible size is {largest[1]}"
    if smallest := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return f"too few for the letters of this corpus; the smallest size is {smallest[1]}"
    return f"sentencepiece cannot train on this corpus: {message}"
