"""A hub of models on a port of this machine, in memory: what huggingface_hub asks of it to push and to fetch files."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading

COMMIT = 'a' * 40


class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def _body(self):
        if self.headers.get('Transfer-Encoding') != 'chunked':
            return self.rfile.read(int(self.headers.get('Content-Length') or 0))
        pieces = []
        while count := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(count))
            self.rfile.readline()
        self.rfile.readline()
        return b''.join(pieces)

    def _answer(self, status, content=b'', **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {'Content-Length': str(len(content)), **headers}.items():
            self.send_header(name.replace('_', '-'), value)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(content)

    def _serve(self):
        hub, body = self.server.hub, self._body()
        hub.asked.append(f'{self.command} {self.path}')
        if hub.refuses:
            return self._answer(hub.refuses, X_Error_Message='no')
        if self.path == '/api/repos/create':
            asked = json.loads(body)
            name = f'{asked["organization"]}/{asked["name"]}'
            if name in hub.files:
                return self._answer(409, {'url': f'{hub.address}/{name}'})
            hub.files[name], hub.made[name] = {}, asked
            return self._answer(200, {'url': f'{hub.address}/{name}'})
        if self.path == '/api/validate-yaml':
            return self._answer(200, {'errors': [], 'warnings': []})
        if found := re.fullmatch(r'/api/models/([^/]+/[^/]+)', self.path):
            private = hub.made.get(found[1], {}).get('visibility') == 'private'
            return self._answer(200, {'id': found[1], 'private': private})
        if found := re.fullmatch(r'/api/models/([^/]+/[^/]+)/branch/([^/]+)', self.path):
            branches = hub.branches.setdefault(found[1], {'main'})
            if found[2] in branches:
                return self._answer(409)
            branches.add(found[2])
            return self._answer(200)
        found = re.fullmatch(r'/api/models/([^/]+/[^/]+)/(?:preupload|commit)/([^/]+)', self.path)
        if found and found[2] not in hub.branches.get(found[1], {'main'}):
            return self._answer(404, X_Error_Code='RevisionNotFound')
        if found := re.fullmatch(r'/api/models/([^/]+/[^/]+)/preupload/[^/]+', self.path):
            files = [
                {'path': file['path'], 'uploadMode': 'regular', 'shouldIgnore': False}
                for file in json.loads(body)['files']
            ]
            return self._answer(200, {'files': files})
        if found := re.fullmatch(r'/api/models/([^/]+/[^/]+)/commit/([^/]+)', self.path):
            for line in map(json.loads, body.splitlines()):
                if line['key'] == 'file':
                    hub.files[found[1]][line['value']['path']] = base64.b64decode(line['value']['content'])
            url = f'{hub.address}/{found[1]}/commit/{COMMIT}'
            return self._answer(200, {'commitUrl': url, 'commitOid': COMMIT, 'success': True})
        if found := re.fullmatch(r'/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)', self.path):
            repository, _, file = found.groups()
            if repository not in hub.files:
                return self._answer(401, X_Error_Code='RepoNotFound')
            if found[2] not in {COMMIT, 'main', *hub.branches.get(repository, ())}:
                return self._answer(404, X_Error_Code='RevisionNotFound')
            if file not in hub.files[repository]:
                return self._answer(404, X_Error_Code='EntryNotFound', X_Repo_Commit=COMMIT)
            content = hub.files[repository][file]
            tag = hashlib.sha256(content).hexdigest()
            return self._answer(200, content, ETag=f'"{tag}"', X_Repo_Commit=COMMIT)
        return self._answer(404)

    do_GET = do_HEAD = do_POST = do_PUT = _serve


class Hub:
    """files: {'user/name': {file: bytes}}, of all branches; made: what was asked for when it was made.

    asked: all requests; branches: {'user/name': names}, of repositories that have more than main.
    refuses: the status of every answer, to be set.
    """

    def __init__(self, address):
        self.address, self.files, self.made, self.asked, self.refuses = address, {}, {}, [], None
        self.branches = {}


@contextlib.contextmanager
def running():
    """A hub that runs inside."""
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
    server.hub = Hub(f'http://127.0.0.1:{server.server_port}')
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
