// Calls a server by @grpc/grpc-js.
//   node grpc_calls.mjs HOST:PORT PROTO_FILE SERVICE < calls.json
// Input: an array of calls, made all at once on one channel. Output: one JSON line for each, in their order. Bytes are base64 in both.
//   unary:  {method, request, metadata?, deadline_ms?}
//   stream: {method, requests: [...], turns?}; with turns, a request is sent when the one before it was answered
// Output: {responses, code, details, headers, trailers, elapsed_ms}.
import { createRequire } from "node:module";
import { text } from "node:stream/consumers";

const require = createRequire(new URL("../../build/js/", import.meta.url));
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, file, service] = process.argv.slice(2);
const shape = { keepCase: true, longs: String, enums: String, bytes: String, arrays: true };
const loaded = grpc.loadPackageDefinition(loader.loadSync(file, shape));
const Client = service.split(".").reduce((scope, name) => scope[name], loaded);

function metadataOf(values = {}) {
  const metadata = new grpc.Metadata();
  for (const [key, value] of Object.entries(values)) {
    metadata.add(key, key.endsWith("-bin") ? Buffer.from(value, "base64") : value);
  }
  return metadata;
}

function perform(client, { method, request, requests, turns, metadata, deadline_ms }) {
  return new Promise((resolve, reject) => {
    const began = performance.now();
    const responses = [];
    let headers = {};
    const options = deadline_ms === undefined ? {} : { deadline: Date.now() + deadline_ms };
    const call = requests
      ? client[method](metadataOf(metadata), options)
      : client[method](request, metadataOf(metadata), options, (error, response) => response && responses.push(response));
    call.on("metadata", (received) => { headers = received.getMap(); });
    call.on("status", ({ code, details, metadata: received }) => {
      const elapsed_ms = performance.now() - began;
      // After this turn of the loop: the callback of a unary call comes with its status, in either order.
      setImmediate(() => resolve({ responses, code, details, headers, trailers: received.getMap(), elapsed_ms }));
    });
    if (!requests) return;
    const left = [...requests];
    const send = () => (left.length ? call.write(left.shift()) : call.end());
    call.on("data", (response) => {
      responses.push(response);
      if (turns) send();
    });
    call.on("error", (error) => { if (error.code === undefined) reject(error); }); // one with a code is the status
    if (turns) send();
    else while (call.writable && !call.writableEnded) send();
  });
}

const client = new Client(address, grpc.credentials.createInsecure());
const calls = JSON.parse(await text(process.stdin));
for (const outcome of await Promise.all(calls.map((call) => perform(client, call)))) {
  console.log(JSON.stringify(outcome));
}
client.close();
