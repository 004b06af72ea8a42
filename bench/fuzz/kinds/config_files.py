"""Config files: Python code that raises, or that returns something other than a config."""

from pathlib import Path
from random import Random

from bench.fuzz.attempts import Kind, command
from bench.fuzz.kinds.inputs import TINY, write_corpus
from bench.fuzz.mutations.files import change_file
from bench.fuzz.mutations.texts import PATHS


class ConfigFiles(Kind):
    """A config file with a random statement, first line, signature and name, or with changed content."""

    suite_attempts = 40
    BODIES = """\
        pass
        return
        return 1
        return 'x'
        return {}
        return {'seed': 1}
        return []
        return config.Config()
        return ConfigDict()
        return ConfigDict({'seed': 1})
        return ConfigDict({'model': 1})
        return config
        return ConfigDict({'model': {'layers': ConfigDict()}})
        return ConfigDict({'x': 1, 'seed': None})
        return config.default_finetune()
        return config.default().model
        return config.default().to_json()
        c.sed = 1
        c.seed = 'x'
        c.seed = None
        c.seed = 2.0
        c.seed = True
        c['model'] = 3
        c.model = c
        c.data.sources = 'text:*.txt'
        c.data.sources = ['text:*.txt']
        c.data.sources = [1, None]
        c.data.sources = {'a': 1}
        c.data.dir = None
        c.data.dir = b'x'
        c.data.dir = Path('corpus')
        c.model.layers = 1e400
        c.model.layers = np.int64(2)
        c.model.layers = np.zeros(3)
        c.seed = 1 << 70
        c.optim.b1 = float('nan')
        c.optim.b1 = '0.9'
        c.optim.b1 = 1j
        c.model.dropout = np.float32(0.1)
        c.unlock(); c.extra = 1
        c.unlock(); del c.seed
        c.unlock(); c.model = {}
        c.unlock(); c.seed = c
        c.seed = c.get_ref('optim') if 0 else 1
        c.model.layers = c.model.get_ref('heads')
        del c.model.layers
        c.data.dir = os.environ['NOT_SET_AT_ALL']
        c.data.dir = os.environ.get('NOT_SET_AT_ALL')
        c.seed = int(os.environ['HOME'])
        open('nowhere')
        open('.')
        1 / 0
        [][1]
        {}['x']
        nothing
        raise Exception
        raise Exception('a\\nb')
        raise RuntimeError(1, 2)
        raise SystemExit
        sys.exit(3)
        raise KeyError
        raise StopIteration
        raise NotImplementedError
        raise OSError
        raise AssertionError
        raise UnicodeDecodeError('utf-8', b'x', 0, 1, 'x')
        raise MemoryError
        get_config()
        assert False
        import neighbour; c.seed = neighbour.SEED
        from neighbour import nothing
        from . import neighbour
        import not_a_module
        from configs.nowhere import get_config
        import broken
        json.loads('{')
        c.seed = neighbours()
        print('hello')
        c.update(model=1)
        c.update(nothing=1)
        c.model.update(dim='x')
        warnings.warn('x')
        c.lock().seed = 1
        os.chdir('..')
        yield c
        exec('def')
        int('x')
        c.x.y = 1
    """.strip().splitlines()
    HEADS = (
        *("", "", "", "", "", "import not_a_module\n", "import neighbour\n", "import broken\n", "1 / 0\n", "x = \n"),
        *("\ufeff", "\0", "# -*- coding: nothing -*-\n", "# -*- coding: latin-1 -*-\n", "from __future__ import x\n"),
        *("import os; X = os.environ['NOT_SET_AT_ALL']\n", "raise SystemExit(1)\n", "raise KeyError('x')\n"),
    )
    IMPORTS = (
        "import json, os, sys, warnings\nfrom pathlib import Path\n"
        "import numpy as np\nfrom ml_collections import ConfigDict\n"
    )
    SIGNATURES = ("get_config()",) * 12 + ("get_config(x)", "config_of()", "get_config(*x)", "get_config(x=1)")

    def make(self, folder: Path) -> None:
        write_corpus(folder)
        (folder / "neighbour.py").write_text("SEED = 3\n")
        (folder / "broken.py").write_text("def\n")

    def change(self, folder: Path, random: Random) -> list[str]:
        if not random.randrange(4):
            return [change_file(random, folder / "tiny.py")]
        text = TINY.replace("get_config()", random.choice(self.SIGNATURES))
        text = text.replace("    return", f"    {random.choice(self.BODIES).strip()}\n    return")
        text = random.choice(self.HEADS) + self.IMPORTS + text
        if not random.randrange(20):
            text = random.choice(
                ("get_config = 1\n", "get_config = None\n", "class get_config: pass\n", "\n", "get_config = {}")
            )
        (folder / "tiny.py").write_text(text)
        others = ("./tiny.py", "tiny", "tiny.py:", "tiny.py:x", "tiny.pyc", ".", *PATHS[:8])
        self.name = random.choice(("tiny.py",) * 12 + others)
        return [text]

    def reset(self) -> None:
        self.name = "tiny.py"

    def run(self, folder: Path, random: Random, history: list[str]) -> None:
        fields = random.choice(([], [], ["--config.seed=1"], ["--config.model.layers=2"]))
        # `prepare` finds its corpus already prepared
        command_line = random.choice((["doctor", "--workdir=run"],) * 3 + (["prepare"],))
        command(*command_line, f"--config={self.name}", *fields, history=history)
