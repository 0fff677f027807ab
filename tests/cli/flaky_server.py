"""An HTTP server for one file that misbehaves as told: drops connections, ignores ranges, changes the file, and so on."""
import contextlib
import http.server
import threading


class FlakyServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, data, path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.path = data, path
        self.drops = []           # bytes after which the next requests' connections end
        self.failures = []        # status codes that the next requests get
        self.ranges = True        # honours Range
        self.validators = True    # sends an ETag
        self.lengths = True       # sends Content-Length
        self.wrong_range = False  # answers 206 with another place than asked for
        self.requests = []        # Range headers seen

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/models"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.requests.append(asked)
        if server.failures:
            self.send_error(server.failures.pop(0))
            return
        if self.path != server.path:
            self.send_error(404)
            return
        data, etag, first = server.data, f'"{hash(server.data)}"', 0
        condition = self.headers.get("If-Range")
        if asked and server.ranges and condition in (None, etag):
            first = int(asked[len("bytes="):].split("-")[0])
            if first >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.end_headers()
                return
            place = first + 1 if server.wrong_range else first
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {place}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        if server.validators:
            self.send_header("ETag", etag)
        if server.lengths:
            self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        part = data[first:]
        if server.drops:
            part = part[:server.drops.pop(0)]
        with contextlib.suppress(ConnectionError):
            self.wfile.write(part)


@contextlib.contextmanager
def serve(data, path):
    server = FlakyServer(data, path)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
