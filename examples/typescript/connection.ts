// What the programs with Connect share: a connection with TLS, a token and repetitions, and how failures are described.

import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

import { type DescService, isFieldSet } from "@bufbuild/protobuf";
import { type Client, Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { codeToString } from "@connectrpc/connect/protocol-connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";

import { ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { token } from "./token.js";

const { MODELREGISTRY_TARGET, MODELREGISTRY_CA_CERT } = process.env;
const baseUrl = `https://${MODELREGISTRY_TARGET}`;
const callTimeoutMs = 20_000;

// What the service config says to libraries that take one. Connect takes none.
const attempts = 5;
const backoffMs = { reads: 200, writes: 1_000 };

/** Repeats calls that fail for a moment, if to make them a second time gives what the first one would have given. */
const retry: Interceptor = (next) => async (request) => {
  if (request.stream) {
    return next(request);
  }
  const { requestId } = request.method.input.field;
  const first = requestId ? backoffMs.writes : backoffMs.reads;
  // Without a request id a write whose answer was lost would be made twice.
  const repeatable = !requestId || isFieldSet(request.message, requestId);
  for (let attempt = 1; ; attempt++) {
    try {
      return await next(request);
    } catch (error) {
      const { code } = ConnectError.from(error);
      // A replica that ends cancels what has reached it and not begun.
      const lost = code === Code.Unavailable || code === Code.Canceled;
      const passing = code === Code.ResourceExhausted || (lost && repeatable);
      if (!passing || attempt === attempts || request.signal.aborted) {
        throw error;
      }
      await sleep(first * 2 ** (attempt - 1) * (0.8 + 0.4 * Math.random()), undefined, { signal: request.signal });
    }
  }
};

const authenticate: Interceptor = (next) => (request) => {
  request.header.set("authorization", `Bearer ${token()}`);
  return next(request);
};

/** Opens a connection with TLS; each call has the token and, if it says nothing else, a deadline. */
export function connect<S extends DescService>(service: S): { client: Client<S>; close: () => void } {
  const sessionManager = new Http2SessionManager(
    baseUrl,
    { pingIntervalMs: 30_000, pingIdleConnection: true },
    { ca: readFileSync(MODELREGISTRY_CA_CERT!) },
  );
  const transport = createGrpcTransport({
    baseUrl,
    sessionManager,
    defaultTimeoutMs: callTimeoutMs,
    interceptors: [retry, authenticate],
  });
  return { client: createClient(service, transport), close: () => sessionManager.abort() };
}

/** An error's name, parameters and instance id, as its ErrorInfo has them, or else its code. */
export function described(error: ConnectError): string {
  const [info] = error.findDetails(ErrorInfoSchema);
  if (!info) {
    return codeToString(error.code).toUpperCase();
  }
  const { errorName, errorInstanceId, ...parameters } = info.metadata;
  const told = Object.entries(parameters).map(([key, value]) => `${key}=${value}`);
  return [errorName, ...told.sort(), `instance ${errorInstanceId}`].join(", ");
}
