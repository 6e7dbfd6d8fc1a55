"The 40 faults: a number, what is wrong, what must happen, and a case that tries it and says what happened"
ROWS = {}


def row(n:int, fault:str, must:str):
    "Make a function the case of fault `n`; it is given a `Bench` and returns a sentence of what happened"
    def register(f):
        assert n not in ROWS, f'two cases for fault {n}'
        ROWS[n] = dict(row=n, fault=fault, must=must, case=f)
        return f
    return register


class Bench:
    "What a case needs: a folder of its own, and the fixtures of the other tests"
    def __init__(self, request, tmp): self.request, self.tmp = request, tmp
    def __getattr__(self, name): return self.request.getfixturevalue(name)

    def said(self, told:str) -> str:
        "A message without this machine's folders"
        import re
        return re.sub(r'(?:/[\w.\-]+)*/(?:pytest-[\w.\-]+/)?pytest-\d+/[\w.\-]+/?', '', told.partition(': ')[2] if told.startswith('har_') or told.startswith(('pytest', '__main__')) else told).replace(str(self.tmp), '').strip()
