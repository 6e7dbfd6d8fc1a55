"A stand-in for the Hugging Face hub on this machine: the parts of its HTTP interface that huggingface_hub calls for a model, in memory"
import base64, hashlib, json, re, threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

TOKEN = 'hf_standin'


def sha(data:bytes) -> str: return hashlib.sha256(data).hexdigest()


class Hub:
    "Repositories, each a list of commits: (hash, {path: bytes})"
    def __init__(self): self.repos,self.private,self.blobs,self.log,self.lie = {},{},{},[],{} # lie: the size that is told of a path

    def commit(self, repo, files):
        self.repos.setdefault(repo, []).append((hashlib.sha1(repr((len(self.repos[repo]), sorted((k, sha(v)) for k, v in files.items()))).encode()).hexdigest(), files))
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
    def known(self): return self.headers.get('Authorization') == f'Bearer {TOKEN}'

    def tell(self, status, body=b'', head=(), error=None):
        if not isinstance(body, bytes): body = json.dumps(body).encode()
        self.send_response(status)
        for k, v in {**({'X-Error-Code': error, 'X-Error-Message': error} if error else {}), 'Content-Length': str(len(body)), **dict(head)}.items(): self.send_header(k, v)
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(body)

    def take(self) -> bytes:
        if 'chunked' not in self.headers.get('Transfer-Encoding', ''): return self.rfile.read(int(self.headers.get('Content-Length', 0)))
        data = b''
        while n := int(self.rfile.readline(), 16): data += self.rfile.read(n); self.rfile.readline()
        self.rfile.readline()
        return data

    def do_POST(self):
        path, data = self.path.partition('?')[0], self.take(); self.hub.log.append(('POST', path))
        if not self.known: return self.tell(401, {'error': 'Invalid credentials in Authorization header'})
        if path == '/api/repos/create':
            d = json.loads(data); repo = f'{d["organization"] or "me"}/{d["name"]}'
            if repo in self.hub.repos: return self.tell(409, {'error': 'You already created this model repo', 'url': f'{self.server.url}/{repo}'})
            self.hub.repos[repo], self.hub.private[repo] = [], d.get('visibility') == 'private' or d.get('private', False)
            return self.tell(200, {'url': f'{self.server.url}/{repo}', 'name': repo, 'id': repo})
        if path == '/api/validate-yaml':
            try: head = yaml.safe_load(json.loads(data)['content'].split('---\n')[1])
            except (yaml.YAMLError, IndexError) as e: return self.tell(400, {'errors': [{'message': str(e)}], 'warnings': []})
            wrong = [] if re.fullmatch('[a-z0-9.-]+', head.get('license', '')) else [{'message': '"license" must be one of the known names'}]
            return self.tell(400 if wrong else 200, {'errors': wrong, 'warnings': []})
        if m := re.fullmatch(r'/api/models/([^/]+/[^/]+)/preupload/main', path):
            files = json.loads(data)['files']
            return self.tell(200, {'files': [{'path': f['path'], 'uploadMode': 'lfs' if f['path'].endswith('.safetensors') else 'regular', 'shouldIgnore': False, 'oid': None} for f in files]})
        if path.endswith('.git/info/lfs/objects/batch'):
            have = [{'oid': o['oid'], 'size': o['size'], **({} if o['oid'] in self.hub.blobs else {'actions': {'upload': {'href': f'{self.server.url}/lfs/{o["oid"]}'}}})} for o in json.loads(data)['objects']]
            return self.tell(200, {'transfer': 'basic', 'objects': have})
        if m := re.fullmatch(r'/api/models/([^/]+/[^/]+)/commit/main', path): return self.commit(m[1], [json.loads(l) for l in data.splitlines()])
        self.tell(404, {'error': 'not here'})

    def commit(self, repo, lines):
        if repo not in self.hub.repos: return self.tell(404, {'error': 'Repository not found'}, error='RepoNotFound')
        files = dict(self.hub.repos[repo][-1][1]) if self.hub.repos[repo] else {}
        for l in lines:
            v = l['value']
            if l['key'] == 'file': files[v['path']] = base64.b64decode(v['content'])
            if l['key'] == 'lfsFile':
                if v['oid'] not in self.hub.blobs: return self.tell(400, {'error': f'{v["path"]} was not uploaded'})
                files[v['path']] = self.hub.blobs[v['oid']]
        oid = self.hub.commit(repo, files)
        self.tell(200, {'success': True, 'commitOid': oid, 'commitUrl': f'{self.server.url}/{repo}/commit/{oid}', 'hookOutput': ''})

    def do_PUT(self):
        data = self.take(); self.hub.log.append(('PUT', self.path))
        if self.path != f'/lfs/{sha(data)}': return self.tell(400, {'error': 'these are other bytes'})
        self.hub.blobs[sha(data)] = data; self.tell(200)

    def do_GET(self):
        path = self.path.partition('?')[0]; self.hub.log.append((self.command, path))
        if m := re.fullmatch(r'/lfs/([0-9a-f]{64})', path): return self.tell(200, self.hub.blobs[m[1]])
        m = re.fullmatch(r'/([^/]+/[^/]+)/resolve/([^/]+)/(.+)', path)
        if not m: return self.tell(404, {'error': 'not here'})
        repo, revision, file = m.groups()
        if repo not in self.hub.repos or self.hub.private.get(repo) and not self.known: return self.tell(401, {'error': 'Repository not found'}, error='RepoNotFound')
        found = self.hub.files(repo, revision)
        if not found: return self.tell(404, {'error': 'no such revision'}, error='RevisionNotFound')
        oid, files = found
        if file not in files: return self.tell(404, {'error': 'no such file'}, {'X-Repo-Commit': oid}, error='EntryNotFound')
        data = files[file]
        head = {'X-Repo-Commit': oid, 'ETag': f'"{sha(data)}"', 'Accept-Ranges': 'bytes'}
        if sha(data) in self.hub.blobs: # a large file lies on another host
            return self.tell(302, b'', {**head, 'X-Linked-Size': str(self.hub.lie.get(file, len(data))), 'X-Linked-Etag': f'"{sha(data)}"', 'Location': f'{self.server.url.replace("127.0.0.1", "localhost")}/lfs/{sha(data)}'})
        self.tell(200, data, {**head, **({'Content-Length': str(self.hub.lie[file])} if file in self.hub.lie and self.command == 'HEAD' else {})})

    do_HEAD = do_GET


@contextmanager
def standin():
    "A hub at `hub.url`, for as long as the block lasts"
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.daemon_threads = True
    server.hub = hub = Hub(); server.url = hub.url = f'http://127.0.0.1:{server.server_address[1]}'
    thread = threading.Thread(target=server.serve_forever); thread.start()
    try: yield hub
    finally: server.shutdown(); thread.join(); server.server_close()
