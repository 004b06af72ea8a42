"""Texts of the command line: values of flags, paths, and sources."""

from random import Random


def split(text: str) -> list[str]:
    """Returns the parts of a text between blanks."""
    return text.split()


TEXTS = (
    *split("0 1 -1 2 3 8 16 00 1_000 0x10 1e3 1e-400 1e400 0.1 1.5 nan inf -inf Infinity True true no None null"),
    *split("2147483648 4294967296 9223372036854775808 1,2 (1,2) [1,2] {} [ ( (((( () , ,, a,b 'a','b' % %s %d"),
    *split("standard train sst2 sst2,rte best short splash cudnn pairwise float32 identity full 1:2 3:1 a:b 10:15 0:0"),
    *split("v5e:2x2 @ x@1 @1 run@40 run@x run@-1 - -- --x * [x] __import__ \u0663 \u00bd \u00b2 \u00e9\u4e2d \udcff"),
    *("", " ", "1 2", "a, b", "a\nb", "\t", "\\", "'", '"', '"a,b"', '"a', "lambda: 0", "\u202e", "\x1b[31m"),
    *("a" * 5000, "9" * 5000, "1" + "0" * 400, "run@" + "9" * 40),
)
PATHS = (
    *split(". .. ./ a/b/c ~ ~/x ~nobody_of_that_name/x /dev/null /dev/null/x /proc/self/x [x] * ** \\ \u00e9 \udcff"),
    *split("s3://bucket/x x:// run corpus text0.txt vocab.txt tiny.py nowhere run/checkpoints run/checkpoints/40"),
    *("", "a\nb", "a b", "a" * 300, "a/" * 3000),
)
SOURCES = (
    *split("jsonl:*.jsonl jsonl: jsonl text:*.txt text:[ text:[x].txt text:nowhere text:. text:~x text:*.txt, TEXT:*"),
    *split("bookcorpus:. bookcorpus: bookcorpus:nowhere tfds: tfds:. tfds:./nowhere tfds:a:b tfds:/// tfds:x://y"),
    *split("tfds:wikipedia/20230601.en tfds:s3://bucket/x python-docs:x python-docs : wiki text:*.txt,text:*.txt"),
    *('"text:a,b.txt"', "text:tiny.py", "jsonl:*.txt", "text:\udcff"),
)


def any_text(random: Random, value: object = "") -> str:
    """Returns a text to give a flag whose default is `value`; most of the texts are not valid."""
    match random.randrange(8):
        case 0:
            return random.choice(PATHS)
        case 1:
            return random.choice(SOURCES)
        case 2:
            given = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            return random.choice((given, f" {given} ", given * 2, f"-{given}", f"{given}.0", f"{given},{given}"))
        case 3:
            return str(random.choice((1, 2, 8, 16, 32, 64, 128)) * random.choice((1, 1, 1, 2**10, 2**20, 2**31)))
        case 4 | 5 if isinstance(value, int | float):
            return str(random.choice((value * 2, value // 2, value / 2, value + 1, 1, 2, 4, 0.5, True, not value)))
        case _:
            return random.choice(TEXTS)
