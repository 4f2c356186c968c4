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

window.calls = { grpcWeb, post };
