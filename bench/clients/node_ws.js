// Node's `ws`: a WebSocket; texts are sent back.
//
//     node node_ws.js PORT CONNECTIONS
'use strict';

const { createRequire } = require('node:module');
const path = require('node:path');

// `ws` is installed once, for the tests.
const peers = path.join(__dirname, '..', '..', 'tests', 'peers', 'package.json');
const { WebSocket } = createRequire(peers)('ws');

const [port, connections] = process.argv.slice(2).map(Number);

for (let i = 0; i < connections; i += 1) {
  const connection = new WebSocket(`ws://127.0.0.1:${port}/`, { perMessageDeflate: false });
  connection.on('message', (data, isBinary) => {
    if (!isBinary) connection.send(data, { binary: false });
  });
}
