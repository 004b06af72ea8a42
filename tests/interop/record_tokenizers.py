"""Makes tests/fixtures/tokenizers: small tokenizers of several kinds, and the ids that transformers gives sample texts.

    .venv-peers/bin/python tests/interop/record_tokenizers.py

It needs transformers, so it runs in the environment of `make peers-env` and imports nothing of ours.
"""

import json
import tempfile
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, RobertaTokenizerFast, XLMRobertaTokenizerFast

FOLDER = Path(__file__).parents[1] / "fixtures" / "tokenizers"
MESSAGE = (Path(__file__).parents[2] / "LICENSE").read_text()
TRAINING = [
    *MESSAGE.split("\n\n"),
    "Grüße aus Köln: das Haus, die Häuser, der Fluß. " * 5,
    "中国 the 中国 and don't! " * 5,
]
ODD = [
    "The cat, UNWANTED: running! don't ... $3.12 -- a1",
    "caf\u00e9 cafe\u0301 \u00c9 \u00df \u0130i \ufb01 \u03a3\u0391\u03a3 \u0419 \u1e9e \u01c5",
    "\u4e2d\u56fdthe\u4e2d \u3042\u30ab\u304c \ud55c\uae00 \u05e9\u05c1\u05b8 \u0e01\u0e33",
    " \t\r\n\u3000\xa0a\x00\x07b\u200bc\u00add\ufffde\u2028f\U0001f44d\U0001f3fd",
    f"{'x' * 100} {'x' * 101} {'ab' * 60}",
    "two  blanks,    four\n\n\nand lines \n at the end \n",
    "  leading and trailing  ",
    "Die Häuser in Köln (am Fluß) sind 'alt'; re-use it's they'll",
    "a#b@c_d/e\\f ▁g Ġh ##i <unk0>",
    "",
]
MASKED = "The {mask} of the work, {mask}."


def roberta() -> PreTrainedTokenizerFast:
    """RoBERTa: byte-level BPE; two </s> between the texts of a pair."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps(model["vocab"]))
        (Path(folder) / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, model["merges"])]))
        return RobertaTokenizerFast(f"{folder}/vocab.json", f"{folder}/merges.txt")


def modernbert() -> PreTrainedTokenizerFast:
    """ModernBERT: byte-level BPE with NFC, runs of blanks as tokens, and special tokens at the end."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TRAINING, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_tokens(["    ", "  "])
    special = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
    tokenizer.add_special_tokens(["|||IP|||", *special.values()])
    frame = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=frame
    )
    tokenizer.decoder = decoders.ByteLevel()
    names = {f"{role}_token": token for role, token in special.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def xlm_roberta() -> PreTrainedTokenizerFast:
    """XLM-RoBERTa: Unigram with Metaspace; NFKC stands in for the normalizer of SentencePiece."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("\n", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TRAINING, trainer)
    frame = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=frame
    )
    tokenizer.decoder = decoders.Metaspace()
    return XLMRobertaTokenizerFast(tokenizer_object=tokenizer)


def wordpiece() -> PreTrainedTokenizerFast:
    """WordPiece, but not BERT's: words end at blanks only, and the special tokens come last."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unknown>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(vocab_size=400, show_progress=False)
    tokenizer.train_from_iterator(TRAINING, trainer)
    special = {"unk": "<unknown>", "cls": "<begin>", "sep": "<end>", "pad": "<empty>", "mask": "<blank>"}
    tokens = [*sorted(tokenizer.get_vocab()), *special.values()]
    tokenizer.model = models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="<unknown>")
    tokenizer.add_special_tokens(list(special.values()))
    frame = [(token, tokenizer.token_to_id(token)) for token in ("<begin>", "<end>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<begin> $A <end>", pair="<begin> $A <end> $B:1 <end>:1", special_tokens=frame
    )
    tokenizer.decoder = decoders.WordPiece()
    names = {f"{role}_token": token for role, token in special.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def main() -> None:
    for make in (roberta, modernbert, xlm_roberta, wordpiece):
        folder = FOLDER / make.__name__
        make().save_pretrained(folder)
        for name in ("vocab.json", "merges.txt"):  # the tokenizer.json has their content
            (folder / name).unlink(missing_ok=True)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        roles = {role: getattr(tokenizer, f"{role}_token_id") for role in ("cls", "sep", "pad", "mask", "unk")}
        pairs = tokenizer(ODD[0], ODD[7])
        recorded = {
            "roles": roles,
            "texts": {text: tokenizer(text)["input_ids"] for text in ODD},
            "masked": tokenizer(MASKED.format(mask=tokenizer.mask_token))["input_ids"],
            "pair": {"ids": pairs["input_ids"], "types": pairs.get("token_type_ids", [0] * len(pairs["input_ids"]))},
        }
        (folder / "recorded.json").write_text(json.dumps(recorded))
        print(make.__name__, len(tokenizer), roles)


main()
