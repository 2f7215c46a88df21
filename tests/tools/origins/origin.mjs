// An origin on node:http that says what it understood: one JSON object on a line of standard output for each request,
// and the same as the answer. The parser is as lenient as Node lets it be, since a credulous origin shows most.
import { createHash } from "node:crypto";
import { createServer } from "node:http";
import { writeSync } from "node:fs";

const serials = new WeakMap();

function pairs(raw) {
  const list = [];
  for (let at = 0; at < raw.length; at += 2) list.push([raw[at], raw[at + 1]]);
  return list;
}

const options = { insecureHTTPParser: true, maxHeaderSize: 1 << 20, keepAliveTimeout: 600_000 };
const server = createServer(options, (request, response) => {
  const serial = (serials.get(request.socket) ?? 0) + 1;
  serials.set(request.socket, serial);
  const peer = request.socket.remotePort;
  const digest = createHash("sha256");
  let length = 0;
  const line = () =>
    JSON.stringify({
      method: request.method,
      target: request.url,
      authority: request.headers.host ?? "",
      fields: pairs(request.rawHeaders),
      trailers: pairs(request.rawTrailers),
      length,
      sha256: digest.copy().digest("hex"),
      complete: request.complete,
      peer,
      serial,
    }) + "\n";
  request.on("data", (piece) => {
    digest.update(piece);
    length += piece.length;
  });
  request.on("error", () => {}); // `close` follows
  request.on("close", () => {
    if (!request.complete) writeSync(1, line());
  });
  request.on("end", () => {
    const answer = line();
    writeSync(1, answer);
    response.writeHead(200, { "content-type": "application/json", "content-length": Buffer.byteLength(answer) });
    response.end(request.method === "HEAD" ? undefined : answer);
  });
});

// A connection that ends within a message: its request has told of that already.
const cut = new Set(["ECONNRESET", "EPIPE", "HPE_INVALID_EOF_STATE"]);
server.on("clientError", (error, socket) => {
  if (cut.has(error.code)) return socket.destroy();
  writeSync(1, JSON.stringify({ error: error.code ?? String(error), peer: socket.remotePort ?? 0 }) + "\n");
  socket.end("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
});
const [host, port] = process.argv[2].split(":");
server.listen(Number(port), host);
