// Node's `ws`: a WebSocketServer, and `send` on each connection.
//
//     node --expose-gc node_ws.js CERTIFICATE
'use strict';

const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const { createRequire } = require('node:module');
const path = require('node:path');

// `ws` is installed once, for the tests.
const peers = path.join(__dirname, '..', '..', 'tests', 'peers', 'package.json');
const { WebSocketServer } = createRequire(peers)('ws');

const subscribers = new Set();

function talk(connection, request) {
  if (request.url === '/subscribe') subscribers.add(connection);
  if (request.url === '/collect') global.gc();
  const publishing = request.url === '/publish';
  connection.on('message', (data, isBinary) => {
    if (publishing) {
      for (const subscriber of subscribers) subscriber.send(data, { binary: isBinary });
    } else {
      connection.send(data, { binary: isBinary });
    }
  });
  connection.on('close', () => subscribers.delete(connection));
  connection.on('error', () => {});
}

function listen(server, perMessageDeflate) {
  new WebSocketServer({ server, perMessageDeflate }).on('connection', talk);
  return new Promise((resolve) => {
    server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, () => resolve(server.address().port));
  });
}

async function main() {
  const pem = fs.readFileSync(process.argv[2]);
  const ports = {
    plain: await listen(http.createServer(), false),
    tls: await listen(https.createServer({ key: pem, cert: pem }), false),
    deflate: await listen(http.createServer(), true),
  };
  console.log(JSON.stringify(ports));
}

main();
