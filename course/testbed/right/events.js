// A chat server for Node that keeps the contract, with net and nothing else. It is one of those that check.py must find
// nothing wrong with.
"use strict";
const fs = require("fs");
const net = require("net");

const MAX_MESSAGE = 4096;
const MAX_UNSENT = 1 << 20;
const clients = new Set();
const say = (text) => {
  try {
    fs.writeSync(2, `${new Date().toTimeString().slice(0, 8)} ${text}\n`);
  } catch {
    // a log that cannot be written does no harm
  }
};

function room() {
  try {
    return Number(/Max open files\s+(\d+)/.exec(fs.readFileSync("/proc/self/limits"))[1]) - 40;
  } catch {
    return 200;
  }
}
const most = room();

function withoutTelnet(line) {
  const data = [];
  for (let i = 0; i < line.length; i++) {
    const next = line[i + 1];
    if (line[i] !== 0xff) data.push(line[i]);
    else if (next === undefined) break;
    else if (next === 0xff) data.push(0xff), i++;
    else if (next >= 0xfb) i += 2;
    else if (next === 0xfa) {
      i += 2;
      while (i < line.length && !(line[i] === 0xff && (line[i + 1] === 0xf0 || i + 1 === line.length)))
        i += line[i] === 0xff ? 2 : 1;
      i++;
    } else if (next >= 0xec) i++;
    else data.push(0xff);
  }
  return Buffer.from(data);
}

function clean(line) {
  // eslint-disable-next-line no-control-regex
  return withoutTelnet(line).toString("utf8").replace(/[\x00-\x08\x0a-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g, "");
}

function message(sender, line) {
  const text = clean(line);
  if (!text.trim()) return;
  const data = Buffer.from(`${sender.name} says: ${text}\n`);
  for (const client of clients)
    if (client !== sender) {
      client.waiting.push(data);
      client.size += data.length;
    }
  // Once for all that is read in this turn: a write that fails destroys the socket, with what it had still to say.
  if (!told) told = setImmediate(tell);
}

let told = null;
function tell() {
  told = null;
  for (const client of clients) {
    if (!client.size || client.gone) continue;
    client.sock.write(Buffer.concat(client.waiting));
    client.waiting = [];
    client.size = 0;
    if (client.sock.writableLength > MAX_UNSENT) drop(client, "dropped: too slow");
  }
}

function drop(client, why, last) {
  if (!clients.delete(client)) return;
  client.gone = true;
  say(`${client.name} ${why}, ${clients.size} online`);
  if (last || client.size) client.sock.end(Buffer.concat([...client.waiting, Buffer.from(last || "")]));
  else client.sock.end();
  setTimeout(() => client.sock.destroy(), 100).unref();
}

function receive(client, data) {
  if (client.gone) return;
  let stream = Buffer.concat([client.received, data]);
  const interrupt = stream.indexOf("\xff\xf4", 0, "latin1");
  if (interrupt >= 0) stream = stream.subarray(0, interrupt);
  for (let end; (end = stream.indexOf(10)) >= 0 && end < MAX_MESSAGE; stream = stream.subarray(end + 1))
    message(client, stream.subarray(0, end));
  client.received = Buffer.from(stream);
  if (interrupt >= 0) drop(client, "left");
  else if (stream.length > MAX_MESSAGE || stream.indexOf(10) >= 0)
    drop(client, "dropped: message too long", "error: a message may be at most 4096 bytes\n");
}

const server = net.createServer({ allowHalfOpen: true, noDelay: true, keepAlive: true }, (sock) => {
  if (clients.size >= most) {
    sock.on("error", () => {});
    sock.end("error: the room is full\n");
    setTimeout(() => sock.destroy(), 100).unref();
    return;
  }
  const client = { sock, name: `${sock.remoteAddress}:${sock.remotePort}`, received: Buffer.alloc(0), waiting: [], size: 0 };
  clients.add(client);
  say(`${client.name} joined, ${clients.size} online`);
  sock.on("data", (data) => receive(client, data));
  sock.on("end", () => {
    if (!client.gone) message(client, client.received);
    drop(client, "left");
  });
  sock.on("error", (error) => drop(client, `dropped: ${error.code}`));
  sock.on("close", () => drop(client, "left"));
});
server.on("error", (error) => {
  say(`cannot listen: ${error.message}`);
  process.exit(1);
});
server.listen({ port: Number(process.argv[2] || 9669), host: "127.0.0.1", backlog: 1024 }, () =>
  say(`listening on 127.0.0.1:${server.address().port}`),
);

let stopping = false;
function stop() {
  if (stopping) return;
  stopping = true;
  server.close();
  tell();
  for (const client of clients) drop(client, "dropped: server stopping");
  say("bye");
  setTimeout(() => process.exit(0), 50);
}
process.on("SIGINT", stop);
process.on("SIGTERM", stop);
