"A local replacement for the Hugging Face hub, in memory: the parts of its HTTP interface that huggingface_hub calls for a model"
import base64, hashlib, json, re, threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

TOKEN = 'hf_standin'


def sha(data:bytes) -> str: return hashlib.sha256(data).hexdigest()


class Hub:
    "Repositories, each a list of commits: (hash, {path: bytes})"
    def __init__(self):
        self.repos, self.private, self.blobs, self.log = {}, {}, {}, []
        self.false_sizes = {} # path -> a wrong size that is reported for it

    def commit(self, repo, files):
        parts = len(self.repos.setdefault(repo, [])), sorted((k, sha(v)) for k, v in files.items())
        self.repos[repo].append((hashlib.sha1(repr(parts).encode()).hexdigest(), files))
        return self.repos[repo][-1][0]

    def files(self, repo, revision):
        "Hash and files of a commit, or None"
        commits = self.repos.get(repo, [])
        if revision == 'main': return commits[-1] if commits else None
        return next((c for c in commits if c[0] == revision), None)


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *args): pass
    @property
    def hub(self): return self.server.hub
    @property
    def authorised(self): return self.headers.get('Authorization') == f'Bearer {TOKEN}'

    # ---- responses and bodies ----

    def reply(self, status, body=b'', head=(), error=None):
        if not isinstance(body, bytes): body = json.dumps(body).encode()
        errors = {'X-Error-Code': error, 'X-Error-Message': error} if error else {}
        self.send_response(status)
        for k, v in {**errors, 'Content-Length': str(len(body)), **dict(head)}.items(): self.send_header(k, v)
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(body)

    def read_body(self) -> bytes:
        if 'chunked' not in self.headers.get('Transfer-Encoding', ''): return self.rfile.read(int(self.headers.get('Content-Length', 0)))
        data = b''
        while n := int(self.rfile.readline(), 16): data += self.rfile.read(n); self.rfile.readline()
        self.rfile.readline()
        return data

    # ---- uploads ----

    def do_POST(self):
        path, data = self.path.partition('?')[0], self.read_body(); self.hub.log.append(('POST', path))
        if not self.authorised: return self.reply(401, {'error': 'Invalid credentials in Authorization header'})
        if path == '/api/repos/create': return self.create(json.loads(data))
        if path == '/api/validate-yaml': return self.validate(json.loads(data)['content'])
        if re.fullmatch(r'/api/models/([^/]+/[^/]+)/preupload/main', path): return self.preupload(json.loads(data)['files'])
        if path.endswith('.git/info/lfs/objects/batch'): return self.lfs_batch(json.loads(data)['objects'])
        if m := re.fullmatch(r'/api/models/([^/]+/[^/]+)/commit/main', path):
            return self.commit(m[1], [json.loads(l) for l in data.splitlines()])
        self.reply(404, {'error': 'unknown address'})

    def create(self, d):
        repo = f'{d["organization"] or "me"}/{d["name"]}'; url = f'{self.server.url}/{repo}'
        if repo in self.hub.repos: return self.reply(409, {'error': 'You already created this model repo', 'url': url})
        self.hub.repos[repo], self.hub.private[repo] = [], d.get('visibility') == 'private' or d.get('private', False)
        self.reply(200, {'url': url, 'name': repo, 'id': repo})

    def validate(self, content):
        try: head = yaml.safe_load(content.split('---\n')[1])
        except (yaml.YAMLError, IndexError) as e: return self.reply(400, {'errors': [{'message': str(e)}], 'warnings': []})
        known = re.fullmatch('[a-z0-9.-]+', head.get('license', ''))
        errors = [] if known else [{'message': '"license" must be one of the known names'}]
        self.reply(400 if errors else 200, {'errors': errors, 'warnings': []})

    def preupload(self, files):
        def mode(path): return 'lfs' if path.endswith('.safetensors') else 'regular'
        self.reply(200, {'files': [{'path': f['path'], 'uploadMode': mode(f['path']), 'shouldIgnore': False, 'oid': None} for f in files]})

    def lfs_batch(self, objects):
        def actions(oid): return {} if oid in self.hub.blobs else {'actions': {'upload': {'href': f'{self.server.url}/lfs/{oid}'}}}
        objects = [{'oid': o['oid'], 'size': o['size'], **actions(o['oid'])} for o in objects]
        self.reply(200, {'transfer': 'basic', 'objects': objects})

    def commit(self, repo, lines):
        if repo not in self.hub.repos: return self.reply(404, {'error': 'Repository not found'}, error='RepoNotFound')
        files = dict(self.hub.repos[repo][-1][1]) if self.hub.repos[repo] else {}
        for l in lines:
            v = l['value']
            if l['key'] == 'file': files[v['path']] = base64.b64decode(v['content'])
            if l['key'] == 'lfsFile':
                if v['oid'] not in self.hub.blobs: return self.reply(400, {'error': f'{v["path"]} was not uploaded'})
                files[v['path']] = self.hub.blobs[v['oid']]
        oid = self.hub.commit(repo, files)
        self.reply(200, {'success': True, 'commitOid': oid, 'commitUrl': f'{self.server.url}/{repo}/commit/{oid}', 'hookOutput': ''})

    def do_PUT(self):
        data = self.read_body(); self.hub.log.append(('PUT', self.path))
        if self.path != f'/lfs/{sha(data)}': return self.reply(400, {'error': 'the checksum differs'})
        self.hub.blobs[sha(data)] = data; self.reply(200)

    # ---- downloads ----

    def do_GET(self):
        path = self.path.partition('?')[0]; self.hub.log.append((self.command, path))
        if m := re.fullmatch(r'/lfs/([0-9a-f]{64})', path): return self.reply(200, self.hub.blobs[m[1]])
        m = re.fullmatch(r'/([^/]+/[^/]+)/resolve/([^/]+)/(.+)', path)
        if not m: return self.reply(404, {'error': 'unknown address'})
        repo, revision, file = m.groups()
        if repo not in self.hub.repos or self.hub.private.get(repo) and not self.authorised:
            return self.reply(401, {'error': 'Repository not found'}, error='RepoNotFound')
        found = self.hub.files(repo, revision)
        if not found: return self.reply(404, {'error': 'no such revision'}, error='RevisionNotFound')
        oid, files = found
        if file not in files: return self.reply(404, {'error': 'no such file'}, {'X-Repo-Commit': oid}, error='EntryNotFound')
        self.send(oid, file, files[file])

    do_HEAD = do_GET

    def send(self, oid, file, data):
        "Send a small file; for a large one, redirect to another host"
        head = {'X-Repo-Commit': oid, 'ETag': f'"{sha(data)}"', 'Accept-Ranges': 'bytes'}
        size = str(self.hub.false_sizes.get(file, len(data)))
        if sha(data) not in self.hub.blobs:
            return self.reply(200, data, {**head, **({'Content-Length': size} if self.command == 'HEAD' else {})})
        other_host = self.server.url.replace('127.0.0.1', 'localhost')
        large = {'X-Linked-Size': size, 'X-Linked-Etag': f'"{sha(data)}"', 'Location': f'{other_host}/lfs/{sha(data)}'}
        self.reply(302, b'', {**head, **large})


@contextmanager
def local_hub():
    "Run a local hub at `hub.url` within a `with` block"
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.daemon_threads = True
    server.hub = hub = Hub(); server.url = hub.url = f'http://127.0.0.1:{server.server_address[1]}'
    thread = threading.Thread(target=server.serve_forever); thread.start()
    try: yield hub
    finally: server.shutdown(); thread.join(); server.server_close()
