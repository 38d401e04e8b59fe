"""A rogue in the middle: between devices and a real appliance, changing what it is told to.

Runs as a program of its own in a namespace of the lab (`python3 rogue.py SPEC.json`), says
`ready` once both its ports are bound, and passes on everything that its attack leaves alone.
SPEC: address, upstream, attack, cert and key (PEM) for TLS, grants (a folder in which grants are
remembered), and what the attack needs: old or other (folders of metadata), charter (a file),
grant_key (PEM).
"""

import base64
import http.client
import http.server
import json
import ssl
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

LIMIT = 64 << 20  # what is sent of something endless before the device must have left


class Reply:
    """What goes back, and how much of it: `promised` bytes are announced (None: until the end)."""

    def __init__(self, status, kind, body):
        self.status, self.kind, self.body = status, kind, body
        self.promised = len(body)
        self.range = None


class Rogue:
    def __init__(self, spec):
        self.spec = spec
        self._change = getattr(self, "_" + spec["attack"].replace("-", "_"), lambda path, reply: None)

    def change(self, path, reply):
        if reply.status in (200, 206):
            self._remember(path, reply)
        self._change(path, reply)

    # -- attacks: each changes the reply in place -----------------------------------

    def _swapped_blob(self, path, reply):
        if path.startswith("/blobs/") and reply.body:
            middle = len(reply.body) // 2
            reply.body = reply.body[:middle] + bytes([reply.body[middle] ^ 1]) + reply.body[middle + 1:]

    def _truncated_blob(self, path, reply):
        """The half that is announced never comes, however often the device asks for it."""
        if path.startswith("/blobs/") and reply.body:
            begins, whole = reply.range or (0, len(reply.body))
            reply.body = reply.body[:max(0, whole // 2 - begins)]

    def _endless_blob(self, path, reply):
        if path.startswith("/blobs/"):
            self._without_end(reply, b"\0")

    def _endless_metadata(self, path, reply):
        if path.endswith("/timestamp.json"):
            self._without_end(reply, b" ")

    def _rollback(self, path, reply):
        if path.endswith("/timestamp.json"):
            self._put(reply, Path(self.spec["old"], "timestamp.json").read_bytes())

    def _mix_and_match(self, path, reply):
        if path.endswith(".snapshot.json"):
            self._put(reply, Path(self.spec["old"], "1.snapshot.json").read_bytes())

    def _root_mismatch(self, path, reply):
        """Another HQ's root as the next one of this chain."""
        if path.endswith("/2.root.json"):
            self._put(reply, Path(self.spec["other"], "1.root.json").read_bytes())

    def _other_hq(self, path, reply):
        if path.endswith("/timestamp.json"):
            self._put(reply, Path(self.spec["other"], "timestamp.json").read_bytes())

    def _charter_of_another_site(self, path, reply):
        if "/targets/sites/" in path:
            self._put(reply, Path(self.spec["charter"]).read_bytes())

    def _grant_replayed(self, path, reply):
        """A grant that another device got, byte for byte."""
        first = sorted(Path(self.spec["grants"]).iterdir())[0]
        self._put_grant(reply, lambda _: json.loads(first.read_text(encoding="utf-8")))

    def _stale_grant(self, path, reply):
        self._put_grant(reply, lambda grant: self._signed(grant, nonce=base64.b64encode(bytes(32)).decode("ascii")))

    def _foreign_grant(self, path, reply):
        self._put_grant(reply, lambda grant: self._signed(grant, site="elsewhere"))

    # -- tools of attackers ---------------------------------------------------------

    @staticmethod
    def _put(reply, body):
        reply.status, reply.body, reply.promised = 200, body, len(body)

    @staticmethod
    def _without_end(reply, filler):
        reply.body, reply.promised = reply.body + filler * LIMIT, None

    def _put_grant(self, reply, make):
        answer, decision = _decision(reply)
        if decision:
            decision["grant"] = make(decision["grant"])
            self._put(reply, json.dumps(answer).encode("utf-8"))

    def _signed(self, envelope, **changes):
        """The grant with other words, signed by the key that the attacker has."""
        grant = {**json.loads(base64.b64decode(envelope["payload"])), **changes}
        payload, kind = json.dumps(grant).encode("utf-8"), envelope["payloadType"]
        message = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode("ascii") + payload
        with tempfile.NamedTemporaryFile() as file:  # Ed25519 is signed in one piece: openssl wants a file
            file.write(message)
            file.flush()
            argv = ["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", self.spec["grant_key"], "-in", file.name]
            signature = subprocess.run(argv, check=True, capture_output=True).stdout
        return {"payload": _b64(payload), "payloadType": kind, "signatures": [{"sig": _b64(signature)}]}

    def _remember(self, path, reply):
        _, decision = _decision(reply)
        if decision:
            folder = Path(self.spec["grants"])
            name = folder / f"{len(list(folder.iterdir())):03}.json"
            name.write_text(json.dumps(decision["grant"]), encoding="utf-8")


def _decision(reply):
    """(the whole answer, the part with a grant), or (None, None)."""
    if "json" not in reply.kind or b'"granted"' not in reply.body:
        return None, None
    answer = json.loads(reply.body)
    decision = answer.get("decision", answer)
    return (answer, decision) if "grant" in decision else (None, None)


def _b64(data):
    return base64.b64encode(data).decode("ascii")


def handler(rogue, tls):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self._serve(None)

        def do_POST(self):
            self._serve(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def _serve(self, body):
            reply = self._ask(body)
            rogue.change(self.path, reply)
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.kind)
            if reply.promised is not None:
                self.send_header("Content-Length", str(reply.promised))
            if reply.range and reply.status == 206:
                begins, whole = reply.range
                self.send_header("Content-Range", f"bytes {begins}-{whole - 1}/{whole}")
            self.send_header("Connection", "close")
            self.end_headers()
            try:
                self.wfile.write(reply.body)
            except OSError:
                pass  # the device left: that is what it should do

        def _ask(self, body):
            """The real appliance's answer."""
            if tls:
                link = http.client.HTTPSConnection(rogue.spec["upstream"], 443, timeout=60, context=_anyone())
            else:
                link = http.client.HTTPConnection(rogue.spec["upstream"], 80, timeout=60)
            wanted = ("Content-Type", "Authorization", "Range")
            headers = {name: self.headers[name] for name in wanted if self.headers[name]}
            link.request(self.command, self.path, body, headers)
            answer = link.getresponse()
            reply = Reply(answer.status, answer.headers.get("Content-Type", "application/octet-stream"), answer.read())
            span = answer.headers.get("Content-Range")
            if span:
                begins, rest = span.removeprefix("bytes ").split("-")
                reply.range = (int(begins), int(rest.split("/")[1]))
            link.close()
            return reply

        def log_message(self, form, *words):
            print(f"{'https' if tls else 'http'} {self.client_address[0]} {form % words}", flush=True)

    return Handler


def _anyone():
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def main():
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    rogue = Rogue(spec)
    servers = []
    for port, tls in ((spec["http"], False), (spec["https"], True)):
        server = http.server.ThreadingHTTPServer((spec["address"], port), handler(rogue, tls))
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(spec["cert"], spec["key"])
            # Shaking hands is the threads' work: one that does not must not hold the others.
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        servers.append(server)
    for server in servers[1:]:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    servers[0].serve_forever()


if __name__ == "__main__":
    main()
