// What a web page does to call a server of another origin: by the grpc-web package, and by fetch. The test calls what is in `window.calls`.
import { GrpcWebClientBase, MethodDescriptor, MethodType } from "/grpc-web.js";

const { protobuf } = window;

async function schema() {
  const root = new protobuf.Root();
  for (const file of ["/model_config.proto", "/grpc_service.proto"]) {
    protobuf.parse(await (await fetch(file)).text(), root, { keepCase: true });
  }
  return root.resolveAll();
}

// One unary call by grpc-web. `format`: "binary" or "text". Bytes are base64 in `request` and in the answer.
async function grpcWeb(server, format, method, request, metadata = {}) {
  const root = await schema();
  const { requestType, responseType } = root.lookupService("inference.GRPCInferenceService").methods[method];
  const Request = root.lookupType(`inference.${requestType}`);
  const Response = root.lookupType(`inference.${responseType}`);
  const descriptor = new MethodDescriptor(
    `/inference.GRPCInferenceService/${method}`,
    MethodType.UNARY,
    Request.ctor,
    Response.ctor,
    (message) => Request.encode(message).finish(),
    (bytes) => Response.decode(bytes),
  );
  const client = new GrpcWebClientBase({ format });
  try {
    const path = server + descriptor.getName();
    const response = await client.unaryCall(path, Request.fromObject(request), metadata, descriptor);
    return { response: Response.toObject(response, { bytes: String, longs: String }) };
  } catch (error) {
    return { code: error.code, message: error.message };
  }
}

// A ModelStreamInfer of one request by grpc-web, which reads as it comes in the text form; and a Watch, which is left
// after its first answer.
async function grpcWebStream(server, format, request) {
  const root = await schema();
  const Request = root.lookupType("inference.ModelInferRequest");
  const Response = root.lookupType("inference.ModelStreamInferResponse");
  const descriptor = new MethodDescriptor(
    "/inference.GRPCInferenceService/ModelStreamInfer",
    MethodType.SERVER_STREAMING,
    Request.ctor,
    Response.ctor,
    (message) => Request.encode(message).finish(),
    (bytes) => Response.decode(bytes),
  );
  const client = new GrpcWebClientBase({ format });
  const path = server + descriptor.getName();
  return new Promise((resolve) => {
    const responses = [];
    const call = client.serverStreaming(path, Request.fromObject(request), {}, descriptor);
    call.on("data", (message) => responses.push(Response.toObject(message, { bytes: String, longs: String })));
    call.on("error", (error) => resolve({ responses, code: error.code, message: error.message }));
    call.on("end", () => resolve({ responses }));
  });
}

// Health's Watch by fetch: the first answer is read while the call goes on, and then it is given up.
async function watch(server) {
  const given = new AbortController();
  const answer = await fetch(`${server}/grpc.health.v1.Health/Watch`, {
    method: "POST",
    headers: { "Content-Type": "application/grpc-web+proto", "X-Grpc-Web": "1" },
    body: new Uint8Array(5),
    signal: given.signal,
  });
  const reader = answer.body.getReader();
  let bytes = [];
  while (bytes.length < 7) bytes = [...bytes, ...(await reader.read()).value];
  given.abort();
  return bytes;
}

// A generate_stream by fetch: its first `most` events, read while the call goes on, which is then given up.
async function events(url, body, most) {
  const given = new AbortController();
  const answer = await fetch(url, { method: "POST", body: JSON.stringify(body), signal: given.signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let done = false;
  while (!done && text.split("\n\n").length <= most) {
    const step = await reader.read();
    done = step.done;
    text += step.value ?? "";
  }
  given.abort();
  const found = text.split("\n\n").slice(0, -1).map((event) => JSON.parse(event.slice("data: ".length)));
  return { status: answer.status, type: answer.headers.get("Content-Type"), found, done };
}

// One POST of JSON by fetch.
async function post(url, body) {
  try {
    const answer = await fetch(url, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    return { status: answer.status, body: await answer.json() };
  } catch (error) {
    return { failed: String(error) };
  }
}

window.calls = { grpcWeb, grpcWebStream, post, events, watch };
