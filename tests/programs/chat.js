// A right chat server in JavaScript, with the streams of Node's `net`: the suite must have nothing against it.
//
//     node chat.js PORT

"use strict";
const fs = require("fs");
const net = require("net");

const MAX_MESSAGE = 4096;
const MAX_UNSENT = 1 << 20;
const KEPT_BACK = 50; // descriptors that Node itself may need
const TOO_LONG = "error: a message may be at most 4096 bytes\n";
const FULL = "error: the room is full\n";
const INTERRUPT = Buffer.from([0xff, 0xf4]);
const TELNET = /\xff(?:\xfa(?:[^\xff]|\xff[^\xf0])*(?:\xff?$|\xff\xf0)|[\xfb-\xfe](?:[^]|$)|[\xec-\xf9]|$|(\xff))/g;
const UNSAFE = /[\x00-\x08\x0a-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g;
const BLANK = /^(?:\s(?<!\ufeff))*$/;

const clients = new Map(); // those in the room: the socket, and what is known of it
const waiting = new Set(); // those of them for whom there are lines to be sent
let stopping = false;

function note(text) {
  try {
    fs.writeSync(2, `${new Date().toTimeString().slice(0, 8)} ${text}\n`);
  } catch {
    // nobody reads it
  }
}

function mostClients() {
  const limit = process.report.getReport().userLimits.open_files.soft;
  return limit === "unlimited" ? Infinity : limit - KEPT_BACK;
}

function hangUp(socket, client) {
  // What is unsent has a moment to go out.
  if (client) socket.write(client.unsent.join(""));
  socket.destroySoon();
  setTimeout(() => socket.destroy(), 300);
}

function leave(socket, why) {
  const client = clients.get(socket);
  if (!client) return;
  clients.delete(socket);
  note(`${client.name} ${why}, ${clients.size} online`);
  hangUp(socket, socket.writable ? client : null);
}

function tell(socket, data) {
  clients.get(socket).unsent.push(data);
  later(socket);
}

// When all that is ready has been read. Node gives up a socket to which it cannot write, and with it what its client
// has said. So whoever has just come is read once before it is sent anything; and one write to a client that has closed
// still succeeds: before the next one it is read to its end.
function flush() {
  const sockets = [...waiting];
  waiting.clear();
  for (const socket of sockets) {
    const client = clients.get(socket);
    if (!client || !socket.writable) continue;
    if (client.turns++ === 0) {
      later(socket);
      continue;
    }
    socket.write(client.unsent.join(""));
    client.unsent = [];
    if (socket.writableLength > MAX_UNSENT) {
      leave(socket, "dropped: too slow");
      socket.destroy();
    }
  }
}

function later(socket) {
  if (waiting.size === 0) setImmediate(flush);
  waiting.add(socket);
}

function message(sender, line) {
  const bytes = Buffer.from(line.toString("latin1").replace(TELNET, "$1"), "latin1");
  const text = bytes.toString("utf8").replace(UNSAFE, "");
  if (BLANK.test(text)) return;
  const said = `${clients.get(sender).name} says: ${text}\n`;
  for (const other of clients.keys()) if (other !== sender) tell(other, said);
}

function tooLong(socket) {
  tell(socket, TOO_LONG);
  leave(socket, "dropped: message too long");
}

function receive(socket, data) {
  const client = clients.get(socket);
  if (!client) return;
  let rest = Buffer.concat([client.received, data]);
  const interrupt = rest.indexOf(INTERRUPT);
  if (interrupt >= 0) rest = rest.subarray(0, interrupt);
  for (let end; (end = rest.indexOf(10)) >= 0; rest = rest.subarray(end + 1)) {
    if (end >= MAX_MESSAGE) return tooLong(socket);
    message(socket, rest.subarray(0, end));
  }
  if (interrupt >= 0) return leave(socket, "left");
  if (rest.length > MAX_MESSAGE) return tooLong(socket);
  client.received = Buffer.from(rest); // a copy: of what it is a part of, nothing needs to be kept
}

function welcome(socket) {
  const name = `${socket.remoteAddress}:${socket.remotePort}`;
  socket.on("error", (error) => leave(socket, `dropped: ${error.code}`));
  socket.on("close", () => leave(socket, "dropped: it is closed"));
  if (!socket.remoteAddress || stopping) return socket.destroy(); // it has left already
  if (clients.size >= mostClientsNow) {
    note(`${name} refused: the room is full, ${clients.size} online`);
    socket.end(FULL);
    socket.destroySoon();
    return;
  }
  clients.set(socket, { name, received: Buffer.alloc(0), unsent: [], turns: 0 });
  note(`${name} joined, ${clients.size} online`);
  socket.on("data", (data) => receive(socket, data));
  socket.on("end", () => {
    if (!clients.has(socket)) return;
    message(socket, clients.get(socket).received);
    leave(socket, "left");
  });
}

function stop() {
  if (stopping) return;
  stopping = true;
  server.close();
  for (const socket of [...clients.keys()]) leave(socket, "dropped: server stopping");
  setTimeout(() => {
    note("bye");
    process.exit(0);
  }, 400);
}

const port = process.argv[2] ?? "";
if (process.argv.length !== 3 || !/^[0-9]+$/.test(port) || Number(port) > 65535) {
  fs.writeSync(2, "usage: node chat.js PORT\n");
  process.exit(2);
}
process.on("SIGINT", stop);
process.on("SIGTERM", stop);
process.stdout.on("error", () => {});
process.stderr.on("error", () => {});
const mostClientsNow = mostClients();
const server = net.createServer({ allowHalfOpen: true, noDelay: true, keepAlive: true }, welcome);
server.on("error", (error) => {
  fs.writeSync(2, `chat.js: cannot listen on 127.0.0.1:${port}: ${error.message}\n`);
  process.exit(1);
});
server.listen({ host: "127.0.0.1", port: Number(port), backlog: 1024 }, () => {
  note(`listening on 127.0.0.1:${server.address().port}`);
});
