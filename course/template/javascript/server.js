// A chat server with Node's events. What a client says is not relayed so far.
"use strict";
const net = require("net");

const server = net.createServer((sock) => {
  const name = `${sock.remoteAddress}:${sock.remotePort}`;
  console.error(`${name} joined`);
  sock.on("data", (data) => {
    // TODO: some bytes came: not a line, and not a message. Make lines of them, and send each to all the others.
  });
  sock.on("error", () => {}); // a client that leaves with a reset is no reason to end
});
server.on("error", (error) => {
  console.error(`cannot listen: ${error.message}`);
  process.exit(1);
});
server.listen(Number(process.argv[2]), "127.0.0.1", () => console.error(`listening on 127.0.0.1:${server.address().port}`));
