// Promotes a model version from one model into another, as examples/README.md says: with stubs that protoc-gen-es
// generated, over Connect's gRPC transport.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

import { isFieldSet, toJson } from "@bufbuild/protobuf";
import { type Client, Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { codeToString } from "@connectrpc/connect/protocol-connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";

import { ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { ModelVersionSchema } from "./gen/modelregistry/v1/model_pb.js";
import { ModelService } from "./gen/modelregistry/v1/model_service_pb.js";
import { wideModelApi } from "./wide.js";

const { MODELREGISTRY_TARGET, MODELREGISTRY_TOKEN, MODELREGISTRY_CA_CERT } = process.env;
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
  request.header.set("authorization", `Bearer ${MODELREGISTRY_TOKEN}`);
  return next(request);
};

async function main(): Promise<void> {
  const { client, close } = connect();
  try {
    const parentFolderRid = `ri.compass.main.folder.${randomUUID()}`;
    const staging = await client.createModel({ name: "staging", parentFolderRid, requestId: randomUUID() });
    const production = await client.createModel({ name: "production", parentFolderRid, requestId: randomUUID() });
    console.error(`created ${staging.rid} and ${production.rid}`);

    const version = await client.createModelVersion({
      modelRid: staging.rid,
      modelApi: wideModelApi,
      condaRequirements: ["numpy==2.1.0", "scikit-learn==1.7.2"],
      backingRepositories: ["ri.stemma.main.repository.churn"],
      linkedExperiment: "ri.models.main.experiment.churn",
      requestId: randomUUID(),
    });
    console.error(`registered ${version.rid}`);

    // The id makes the call safe to repeat: `retry` does so when the answer is lost, and so may anybody.
    const request = {
      modelRid: production.rid,
      sourceModelVersionRid: version.rid,
      preview: true,
      requestId: randomUUID(),
    };
    console.error(`promoted ${(await client.promoteVersion(request)).rid}`);
    const promoted = await client.promoteVersion(request);
    console.error(`repeated ${promoted.rid}`);

    const found = await client.getModelVersion({ modelRid: production.rid, modelVersionRid: promoted.rid });
    console.log(JSON.stringify(toJson(ModelVersionSchema, found), null, 2));

    await tellFailure(client.getModel({ modelRid: `ri.models.main.model.${randomUUID()}` }));
    await tellMissedDeadline(staging.rid);

    const pages = await modelsByPage(client, parentFolderRid);
    console.error(`listed ${pages.flat().length} models in ${pages.length} pages`);
  } finally {
    close();
  }
}

/** Opens a connection with TLS; each call has the token and, if it says nothing else, a deadline. */
function connect(): { client: Client<typeof ModelService>; close: () => void } {
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
  return { client: createClient(ModelService, transport), close: () => sessionManager.abort() };
}

/** A deadline so near that no new connection can be made before. Connect takes one that has passed for none at all. */
async function tellMissedDeadline(modelRid: string): Promise<void> {
  const { client, close } = connect();
  await tellFailure(client.getModel({ modelRid }, { timeoutMs: 1 }));
  close();
}

async function modelsByPage(client: Client<typeof ModelService>, parentFolderRid: string): Promise<string[][]> {
  const pages: string[][] = [];
  let pageToken: string | undefined;
  do {
    const page = await client.listModels({ parentFolderRid, pageSize: 1, pageToken });
    pages.push(page.models.map((model) => model.rid));
    pageToken = page.nextPageToken;
  } while (pageToken !== undefined);
  return pages;
}

async function tellFailure(call: Promise<unknown>): Promise<void> {
  try {
    await call;
  } catch (error) {
    console.error(`failed with ${described(ConnectError.from(error))}`);
  }
}

/** An error's name, parameters and instance id, as its ErrorInfo has them, or else its code. */
function described(error: ConnectError): string {
  const [info] = error.findDetails(ErrorInfoSchema);
  if (!info) {
    return codeToString(error.code).toUpperCase();
  }
  const { errorName, errorInstanceId, ...parameters } = info.metadata;
  const told = Object.entries(parameters).map(([key, value]) => `${key}=${value}`);
  return [errorName, ...told.sort(), `instance ${errorInstanceId}`].join(", ");
}

try {
  await main();
} catch (error) {
  console.error(`${error}`);
  process.exitCode = 1;
}
