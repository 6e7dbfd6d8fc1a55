"The registry of the faults: number, description, expected behaviour, and a test case"
import json, os
from pathlib import Path

from filelock import FileLock

from helpers import NBS

ROWS = {}
PAGE = NBS/'pages'/'robustness.json' # the table of the page on robustness
WRITE = os.environ.get('HAR_ROBUSTNESS') == 'write' # write the table instead of comparing with it


def row(n:int, fault:str, must:str):
    "Register a function as the case of fault `n`: it takes a `Context` and returns a sentence that describes the result"
    def register(f):
        assert n not in ROWS, f'two cases for fault {n}'
        ROWS[n] = dict(row=n, fault=fault, must=must, case=f)
        return f
    return register


class Context:
    "The context of a case: a folder of its own (`tmp`), and every fixture as an attribute"
    def __init__(self, request, tmp): self.request, self.tmp = request, tmp
    def __getattr__(self, name): return self.request.getfixturevalue(name)


def table() -> dict[int, dict]:
    "The rows of the page, by number"
    return {r['row']: r for r in json.loads(PAGE.read_text(encoding='utf-8'))['rows']} if PAGE.exists() else {}


def entry(n:int, outcome:str, happened:str) -> dict:
    "The row of the page for fault `n`"
    return dict(row=n, fault=ROWS[n]['fault'], must=ROWS[n]['must'], outcome=outcome, happened=happened)


def write_entry(new:dict) -> None:
    "Write a row into the page; several processes may do so at once"
    with FileLock(Path(os.environ['HAR_FASTAI_CACHE'])/'robustness.lock'):
        rows = table() | {new['row']: new}
        PAGE.write_text(json.dumps(dict(rows=[rows[n] for n in sorted(rows)]), indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
