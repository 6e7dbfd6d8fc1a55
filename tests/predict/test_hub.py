"""Models are uploaded to the hub and downloaded unchanged; no other file is uploaded or downloaded

The hub is a local server; the client library of the hub calls it from a separate process."""
import json, os, shutil, subprocess, sys
from pathlib import Path

import pytest
import torch
import yaml

from har_fastai.files import HARError
from har_fastai.fusion.head import FusionHead
from har_fastai.fusion.predictor import load_fusion, save_fusion
from har_fastai.models import create_model, find_arch
from har_fastai.predict.bundle import Card, load_bundle, save_bundle
from har_fastai.predict.hub import FILES, model_page, push_to_hub
from har_fastai.predict.predictor import Predictor
from hub_server import TOKEN, local_hub

pytest.importorskip('huggingface_hub')
PLAIN = {f for f in FILES if not f.startswith('fusion')} # the files of a model to which nothing was added


CHILD = '''
import json, os, sys
from har_fastai.files import HARError
from har_fastai.predict.hub import from_hub, push_to_hub
for line in sys.stdin:
    os.environ['HF_TOKEN'], code = json.loads(line)
    try: value = str(eval(code))
    except HARError as e: value = f'refused: {e}'
    print(json.dumps(value), flush=True)
'''


@pytest.fixture(scope='module')
def child(tmp_path_factory):
    "A process that uses the local server as its hub"
    home = tmp_path_factory.mktemp('home')
    with local_hub() as hub:
        env = {**os.environ, 'HF_ENDPOINT': hub.url, 'HF_HOME': str(home), 'HF_HUB_DISABLE_XET': '1', 'HF_HUB_DISABLE_PROGRESS_BARS': '1',
               'NO_PROXY': '127.0.0.1,localhost'}
        with subprocess.Popen([sys.executable, '-c', CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as p:
            yield hub, home, p
            p.stdin.close()


@pytest.fixture
def hub(child):
    "The local server, empty"
    hub = child[0]
    for part in (hub.repos, hub.private, hub.blobs, hub.log, hub.false_sizes): part.clear()
    return hub


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A model in a folder with other files, which must not be uploaded"
    a = find_arch('baseline')
    torch.manual_seed(3)
    card = Card('baseline', ['running', 'sitting'], 48, list(a.mean), list(a.std), temperature=.8)
    folder = save_bundle(tmp_path_factory.mktemp('hub')/'run', create_model('baseline', 2), card)
    for name in ('checkpoint/secret.bin', 'predictions.csv', 'split.csv', 'report.html', 'figures/a.png', 'model.pkl'):
        (folder/name).parent.mkdir(exist_ok=True); (folder/name).write_text('not for others')
    return folder


def repo(request) -> str: return f'me/{request.node.name.removeprefix("test_")}'


@pytest.fixture
def do(child, hub, request):
    "Evaluate an expression in the child: its value as text, or the error message. REPO is a repository for each test"
    def do(code, token=TOKEN):
        child[2].stdin.write(json.dumps([token, code.replace('REPO', repr(repo(request)))]) + '\n'); child[2].stdin.flush()
        return json.loads(child[2].stdout.readline())
    return do


@pytest.fixture
def push(do, run):
    "Upload the model"
    return lambda *args, folder=run, **kw: do(f'push_to_hub({str(folder)!r}, REPO{"".join(f", {a!r}" for a in args)})', **kw)


@pytest.fixture
def mine(hub, request):
    "The commits of this test's repository"
    return lambda: hub.repos.get(repo(request))


def downloads(hub): return [p for method, p in hub.log if method == 'GET']


def test_upload_and_download(hub, mine, request, do, push, run, child):
    "A downloaded model predicts as the uploaded one; other files of the run or of the repository are not transferred"
    url = push('apache-2.0')
    ((oid, files),), home = mine(), child[1]
    assert url == f'{hub.url}/{repo(request)}/commit/{oid}' and set(files) == PLAIN and hub.private[repo(request)]
    assert files['model.safetensors'] == (run/'model.safetensors').read_bytes()
    assert ('PUT', f'/lfs/{json.loads(files["model.json"])["sha256"]}') in hub.log
    hub.commit(repo(request), {**files, 'evil.pkl': b'\x80\x04.', 'tokenizer.bin': bytes(9), 'config.py': b'raise SystemExit'})
    hub.log.clear()
    folder = Path(do('from_hub(REPO)'))
    assert {f.name for f in folder.iterdir()} == PLAIN and not [p for _, p in hub.log if 'evil' in p or 'config.py' in p]
    assert not [f for f in home.rglob('*') if f.name in ('evil.pkl', 'tokenizer.bin', 'config.py')]
    a, b = (Predictor(f, half=False) for f in (run, folder))
    x = torch.randn(2, 3, 48, 48).numpy()
    assert torch.equal(a.logits(x), b.logits(x)) and load_bundle(folder)[1] == load_bundle(run)[1]
    hub.log.clear()
    assert do('from_hub(REPO)') == str(folder) and not downloads(hub), 'a second call must use the downloaded files'


def test_a_fused_model_travels_in_one_folder(mine, do, push, run, tmp_path):
    head, info = FusionHead(dict(pose=4), 2), dict(vocab=['running', 'sitting'], base=load_bundle(run)[1].sha256)
    shutil.copytree(run, tmp_path/'fused')
    save_fusion(tmp_path/'fused', head, None, info)
    push(folder=tmp_path/'fused')
    assert set(mine()[-1][1]) == set(FILES)
    folder = do('from_hub(REPO)')
    assert (Path(folder)/'fusion.safetensors').read_bytes() == (tmp_path/'fused'/'fusion.safetensors').read_bytes()
    assert load_fusion(folder)[2]['base'] == load_bundle(folder)[1].sha256


def test_a_revision_keeps_its_files(hub, mine, request, do, push):
    push()
    first, files = mine()[-1]
    hub.commit(repo(request), {**files, 'model.json': files['model.json'].replace(b'0.8', b'0.9')})
    old, new = (load_bundle(do(f'from_hub(REPO{r})'))[1].temperature for r in (f', "{first}"', ''))
    assert (old, new) == (.8, .9)
    assert 'has no such revision' in do('from_hub(REPO, "v9")')


def test_a_second_upload_replaces_the_first(hub, mine, do, run):
    for licence in ('mit', 'apache-2.0'): do(f'push_to_hub({str(run)!r}, REPO, "{licence}", message="{licence}")')
    assert len(mine()) == 2 and b'apache-2.0' in mine()[-1][1]['README.md']
    assert len([p for method, p in hub.log if method == 'PUT']) == 1, 'the same weights are not sent twice'


def test_missing_access_is_reported(hub, do, push, run):
    push()
    assert 'no token with access' in do('from_hub(REPO)', token='hf_wrong')
    assert 'hf auth login' in do(f'push_to_hub({str(run)!r}, "me/other")', token='hf_wrong') and 'me/other' not in hub.repos
    assert 'there is no such model' in do('from_hub("me/nothing")')


def test_downloads_are_checked(hub, mine, request, do, push):
    "Weights that are cut short, a missing card, a malicious card, a card that is too large"
    push()
    good = mine()[-1][1]; card = json.loads(good['model.json'])
    cases = {'sha256 differs': {**good, 'model.safetensors': good['model.safetensors'][:-1]},
             'lacks a file': {k: v for k, v in good.items() if k != 'model.json'},
             'unknown architecture': {**good, 'model.json': json.dumps({**card, 'arch': '../../evil'}).encode()},
             'format': {**good, 'model.json': b'[]'},
             '1,000,001 bytes and the limit is 1,000,000': {**good, 'model.json': b' ' * 1_000_001}}
    for words, files in cases.items():
        hub.commit(repo(request), files)
        message = do('from_hub(REPO)')
        assert message.startswith('refused:') and words in message and '\n' not in message, message


def test_files_that_are_too_large_are_not_downloaded(hub, do, push):
    push()
    hub.false_sizes['model.safetensors'] = 6_000_000_000; hub.log.clear()
    assert '6,000,000,000 bytes and the limit is 5,000,000,000' in do('from_hub(REPO)') and not downloads(hub)
    hub.false_sizes['model.safetensors'] = 9 # less than it sends
    assert do('from_hub(REPO)').startswith('refused:')


def test_an_invalid_licence_is_refused_before_the_upload(hub, mine, push):
    assert push('my own: "licence"\n---').startswith('refused:') and mine() == [] and hub.blobs == {}


def test_a_damaged_model_is_not_uploaded(hub, push, run, tmp_path):
    bad = shutil.copytree(run, tmp_path/'bad'); (bad/'model.safetensors').write_bytes(b'short')
    assert 'sha256 differs' in push(folder=bad) and hub.log == []


def test_the_model_page(run):
    card = load_bundle(run)[1]
    def interval(value): return dict(value=value, low=round(value - .1, 2), high=round(value + .1, 2))
    card.metrics = {'valid': {'n': 10, 'macro_f1': interval(.5)}, 'test': {'n': 1234, 'macro_f1': interval(.4), 'accuracy': interval(.41)}}
    page = model_page(card, 'me/small', 'cc-by-4.0')
    head = yaml.safe_load(page.split('---\n')[1])
    assert head['license'] == 'cc-by-4.0' and head['pipeline_tag'] == 'image-classification'
    assert '| test | 1,234 | 0.400 (0.300–0.500) | 0.410 (0.310–0.510) | – |' in page
    assert 'optimistic' in page and '`running`, `sitting`' in page and card.sha256 in page


def test_without_huggingface_hub(run, monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(HARError, match=r'pip install "har_fastai\[hub\]"'): push_to_hub(run, 'me/small')
