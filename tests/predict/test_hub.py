"Models go to the hub and come back whole; nothing else goes or comes. (The hub is a stand-in on this machine, spoken to by the hub's own client in a process of its own.)"
import json, os, subprocess, sys
from pathlib import Path

import pytest
import torch
import yaml

from har_fastai.predict.hub import FILES, model_page, push_to_hub
from har_fastai.predict.bundle import Card, load_bundle, save_bundle
from har_fastai.predict.predictor import Predictor
from har_fastai.files import HARError
from har_fastai.models import create_model, find_arch
from hub_server import TOKEN, standin

pytest.importorskip('huggingface_hub')


CHILD = '''
import json, os, sys
from har_fastai.files import HARError
from har_fastai.predict.hub import from_hub, push_to_hub
for line in sys.stdin:
    os.environ['HF_TOKEN'], code = json.loads(line)
    try: said = str(eval(code))
    except HARError as e: said = f'refused: {e}'
    print(json.dumps(said), flush=True)
'''


@pytest.fixture(scope='module')
def child(tmp_path_factory):
    "A process that uses the stand-in as its hub, from its environment alone"
    home = tmp_path_factory.mktemp('home')
    with standin() as hub:
        env = {**os.environ, 'HF_ENDPOINT': hub.url, 'HF_HOME': str(home), 'HF_HUB_DISABLE_XET': '1', 'HF_HUB_DISABLE_PROGRESS_BARS': '1', 'NO_PROXY': '127.0.0.1,localhost'}
        with subprocess.Popen([sys.executable, '-c', CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as p:
            yield hub, home, p
            p.stdin.close()


@pytest.fixture
def hub(child):
    "The stand-in, empty"
    hub = child[0]
    for part in (hub.repos, hub.private, hub.blobs, hub.log, hub.lie): part.clear()
    return hub


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    a = find_arch('baseline')
    torch.manual_seed(3)
    folder = save_bundle(tmp_path_factory.mktemp('hub')/'run', create_model('baseline', 2), Card('baseline', ['running', 'sitting'], 48, list(a.mean), list(a.std), temperature=.8))
    for name in ('checkpoint/secret.bin', 'predictions.csv', 'split.csv', 'report.html', 'figures/a.png', 'model.pkl'): # a run holds more, which stays at home
        (folder/name).parent.mkdir(exist_ok=True); (folder/name).write_text('not for others')
    return folder


@pytest.fixture
def do(child, hub, request):
    "Run an expression that uses the hub; gives its value as text, or the sentence with which it refused. Each test has a repository of its own, called REPO here"
    def do(code, token=TOKEN):
        child[2].stdin.write(json.dumps([token, code.replace('REPO', repr(repo(request)))]) + '\n'); child[2].stdin.flush()
        return json.loads(child[2].stdout.readline())
    return do


def repo(request) -> str: return f'me/{request.node.name.removeprefix("test_")}'


@pytest.fixture
def mine(hub, request):
    "The commits of this test's repository"
    return lambda: hub.repos.get(repo(request))


def test_there_and_back(hub, mine, request, do, run, child):
    "What comes back answers as what was sent; the run's other files are not sent, and foreign ones not fetched"
    url = do(f'push_to_hub({str(run)!r}, REPO, "apache-2.0")')
    ((oid, files),), home = mine(), child[1]
    assert url == f'{hub.url}/{repo(request)}/commit/{oid}' and set(files) == set(FILES) and hub.private[repo(request)]
    assert files['model.safetensors'] == (run/'model.safetensors').read_bytes() and ('PUT', f'/lfs/{json.loads(files["model.json"])["sha256"]}') in hub.log
    hub.commit(repo(request), {**files, 'evil.pkl': b'\x80\x04.', 'tokenizer.bin': bytes(9), 'config.py': b'raise SystemExit'})
    hub.log.clear()
    folder = Path(do('from_hub(REPO)'))
    assert {f.name for f in folder.iterdir()} == set(FILES) and not [p for _, p in hub.log if 'evil' in p or 'config.py' in p]
    assert not [f for f in home.rglob('*') if f.name in ('evil.pkl', 'tokenizer.bin', 'config.py')]
    a, b = (Predictor(f, half=False) for f in (run, folder))
    x = torch.randn(2, 3, 48, 48).numpy()
    assert torch.equal(a.logits(x), b.logits(x)) and load_bundle(folder)[1] == load_bundle(run)[1]
    hub.log.clear()
    assert do('from_hub(REPO)') == str(folder) and not [p for m, p in hub.log if m == 'GET'], 'a second call finds the files where they are'


def test_a_revision_keeps_its_files(hub, mine, request, do, run):
    do(f'push_to_hub({str(run)!r}, REPO)')
    first, files = mine()[-1]
    hub.commit(repo(request), {**files, 'model.json': files['model.json'].replace(b'0.8', b'0.9')})
    old, new = (load_bundle(do(f'from_hub(REPO{r})'))[1].temperature for r in (f', "{first}"', ''))
    assert (old, new) == (.8, .9)
    assert 'has no such revision' in do('from_hub(REPO, "v9")')


def test_pushing_again_replaces(hub, mine, request, do, run):
    for licence in ('mit', 'apache-2.0'): do(f'push_to_hub({str(run)!r}, REPO, "{licence}", message="{licence}")')
    assert len(mine()) == 2 and b'apache-2.0' in mine()[-1][1]['README.md']
    assert len([p for m, p in hub.log if m == 'PUT']) == 1, 'the same weights are not sent twice'


def test_strangers_are_told(hub, mine, request, do, run):
    do(f'push_to_hub({str(run)!r}, REPO)')
    assert 'no token with access' in do('from_hub(REPO)', token='hf_wrong')
    assert 'hf auth login' in do(f'push_to_hub({str(run)!r}, "me/other")', token='hf_wrong') and 'me/other' not in hub.repos
    assert 'there is no such model' in do('from_hub("me/nothing")')


def test_what_comes_is_checked(hub, mine, request, do, run):
    "Cut short, replaced, without its card, of a hostile card, or of another size than it may have"
    do(f'push_to_hub({str(run)!r}, REPO)')
    good = mine()[-1][1]
    card = json.loads(good['model.json'])
    cases = [({**good, 'model.safetensors': good['model.safetensors'][:-1]}, 'sha256 differs'), ({k: v for k, v in good.items() if k != 'model.json'}, 'lacks a file'),
             ({**good, 'model.json': json.dumps({**card, 'arch': '../../evil'}).encode()}, 'unknown architecture'), ({**good, 'model.json': b'[]'}, 'format'),
             ({**good, 'model.json': b' ' * 1_000_001}, '1,000,001 bytes and the limit is 1,000,000')]
    for files, told in cases:
        hub.commit(repo(request), files)
        said = do('from_hub(REPO)')
        assert said.startswith('refused:') and told in said and '\n' not in said, said


def test_what_is_too_large_is_not_fetched(hub, mine, request, do, run):
    do(f'push_to_hub({str(run)!r}, REPO)')
    hub.lie['model.safetensors'] = 6_000_000_000; hub.log.clear()
    assert '6,000,000,000 bytes and the limit is 5,000,000,000' in do('from_hub(REPO)')
    assert not [p for m, p in hub.log if m == 'GET'], 'nothing was fetched'
    hub.lie['model.safetensors'] = 9 # the hub says less than it sends
    assert do('from_hub(REPO)').startswith('refused:')


def test_a_bad_licence_is_refused_before_anything_is_sent(hub, mine, request, do, run):
    said = do(f'push_to_hub({str(run)!r}, REPO, "my own: \\"licence\\"\\n---")')
    assert said.startswith('refused:') and mine() == [] and hub.blobs == {}


def test_a_damaged_model_is_not_sent(hub, mine, request, do, run, tmp_path):
    import shutil
    bad = tmp_path/'bad'; shutil.copytree(run, bad); (bad/'model.safetensors').write_bytes(b'short')
    assert 'sha256 differs' in do(f'push_to_hub({str(bad)!r}, REPO)') and hub.log == []


def test_the_page(run):
    card = load_bundle(run)[1]
    card.metrics = {'valid': {'n': 10, 'macro_f1': dict(value=.5, low=.25, high=.75)}, 'test': {'n': 1234, 'macro_f1': dict(value=.4, low=.3, high=.5), 'accuracy': dict(value=.41, low=.31, high=.51)}}
    page = model_page(card, 'me/small', 'cc-by-4.0')
    head = yaml.safe_load(page.split('---\n')[1])
    assert head['license'] == 'cc-by-4.0' and head['pipeline_tag'] == 'image-classification'
    assert '| test | 1,234 | 0.400 (0.300–0.500) | 0.410 (0.310–0.510) | – |' in page and 'flatter' in page and '`running`, `sitting`' in page and card.sha256 in page


def test_without_huggingface_hub(run, monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(HARError, match=r'pip install "har_fastai\[hub\]"'): push_to_hub(run, 'me/small')
