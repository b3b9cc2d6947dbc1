// A peer for the tests, on Node's `ws` library. The commands are those of peer_websockets.py.

import { createHash } from "node:crypto";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(import.meta.url); // looks along NODE_PATH, which `import` does not
const WebSocket = require("ws");
const MIB = 1024 * 1024;

let server = null;
let ws = null;
const clients = [];
let nextClient = null;

// Messages and the end are kept from the first moment, so that none comes before it is asked for.
function watch(socket, about) {
  const state = { socket, about, messages: [], end: null, wake: () => {}, pongs: [] };
  socket.on("message", (data, isBinary) => {
    state.messages.push({ data, isBinary });
    state.wake();
  });
  socket.on("pong", (data) => {
    state.pongs.push(data.toString());
    state.wake();
  });
  socket.on("close", (code, reason) => {
    state.end = { code, reason: reason.toString() };
    state.wake();
  });
  socket.on("error", () => {});
  return state;
}

async function until(state, condition) {
  while (!condition()) {
    await new Promise((resolve) => {
      state.wake = resolve;
    });
  }
}

function sent(socket, data, options) {
  return new Promise((resolve, reject) => {
    socket.send(data, options, (error) => (error ? reject(error) : resolve()));
  });
}

const commands = {
  async listen({ subprotocols, token, max_size = 2 * MIB, deflate = false }) {
    server?.close();
    const perMessageDeflate = deflate && { threshold: 0 };
    const options = { host: "127.0.0.1", port: 0, maxPayload: max_size, perMessageDeflate };
    if (subprotocols) {
      options.handleProtocols = (offered) =>
        subprotocols.find((name) => offered.has(name)) ?? false;
    }
    if (token) {
      options.verifyClient = ({ req }, decide) =>
        decide(req.headers.authorization === `Bearer ${token}`, 401, "Unauthorized");
    }
    server = new WebSocket.Server(options);
    server.on("connection", (socket, request) => {
      const headers = request.headers;
      const about = { path: request.url, subprotocol: socket.protocol || null, headers };
      clients.push(watch(socket, about));
      nextClient?.();
    });
    await new Promise((resolve) => server.once("listening", resolve));
    return { port: server.address().port };
  },

  async accepted() {
    while (clients.length === 0) {
      await new Promise((resolve) => {
        nextClient = resolve;
      });
    }
    ws = clients.shift();
    return ws.about;
  },

  async open({ url, subprotocols = [], headers = {}, max_size = 2 * MIB }) {
    const socket = new WebSocket(url, subprotocols, { headers, maxPayload: max_size });
    let answered = {};
    ws = watch(socket);
    socket.on("upgrade", (response) => {
      answered = response.headers;
    });
    return new Promise((resolve, reject) => {
      socket.on("open", () =>
        resolve({ subprotocol: socket.protocol || null, headers: answered }),
      );
      socket.on("unexpected-response", (request, response) => {
        request.destroy();
        resolve({ refused: response.statusCode });
      });
      socket.on("error", reject);
    });
  },

  async send({ text, hex, size = 0, parts, as_text = false }) {
    if (parts) {
      for (const [index, part] of parts.entries()) {
        await sent(ws.socket, part, { fin: index === parts.length - 1 });
      }
    } else if (text !== undefined) {
      await sent(ws.socket, text, {});
    } else {
      const data = hex === undefined ? Buffer.alloc(size) : Buffer.from(hex, "hex");
      await sent(ws.socket, data, { binary: !as_text });
    }
    return {};
  },

  async recv() {
    await until(ws, () => ws.messages.length > 0 || ws.end);
    if (ws.messages.length === 0) throw new Error("closed");
    const { data, isBinary } = ws.messages.shift();
    return {
      kind: isBinary ? "binary" : "text",
      size: data.length,
      sha: createHash("sha256").update(data).digest("hex"),
      text: data.subarray(0, 1000).toString(),
    };
  },

  async ping({ text }) {
    ws.socket.ping(text);
    await until(ws, () => ws.pongs.includes(text));
    return {};
  },

  async close({ code = 1000, reason = "" }) {
    ws.socket.close(code, reason);
    return commands.closed();
  },

  async closed() {
    await until(ws, () => ws.end);
    return ws.end;
  },

  async abort() {
    ws.socket.terminate();
    return {};
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { do: command, ...args } = JSON.parse(line);
  let answer;
  try {
    answer = await commands[command](args);
  } catch (error) {
    answer = { error: String(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0);
