// Promotes a model version from one model into another, as examples/README.md says: with @grpc/grpc-js, and without
// generated code. The API is read from a descriptor set when the program starts; requests and answers are proto3 JSON.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";

import { createFileRegistry, fromBinary, fromJson, type JsonObject, toBinary, toJson } from "@bufbuild/protobuf";
import { type Any, FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import * as grpc from "@grpc/grpc-js";

const { MODELREGISTRY_TARGET, MODELREGISTRY_TOKEN, MODELREGISTRY_CA_CERT } = process.env;
const callSeconds = 20;

const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync("modelregistry.binpb")));
const service = registry.getService("modelregistry.v1.ModelService")!;
const statusSchema = registry.getMessage("google.rpc.Status")!;
const errorInfoSchema = registry.getMessage("google.rpc.ErrorInfo")!;

const names = ["id", "größe", "città", "年齢", "возраст", "العمر", "🦉", "e\u0301"];
const types = [
  { any: {} },
  { array: { itemType: { string: {} } } },
  { boolean: {} },
  { date: {} },
  { double: {} },
  { float: {} },
  { integer: {} },
  { long: {} },
  { map: { keyType: { string: {} }, valueType: { array: { itemType: { double: {} } } } } },
  { string: {} },
  { timestamp: {} },
  { unsupported: { unsupportedType: "org.example.Point", params: { srid: "4326", axes: "纬度, 经度" } } },
];

/** A table of 200 columns, of all data types; null is unset. */
const wideModelApi = {
  inputs: [
    {
      tabular: {
        name: "Größe 📏",
        required: true,
        format: "TABULAR_FORMAT_SPARK",
        columns: Array.from({ length: 200 }, (_, i) => ({
          name: `${names[i % names.length]} ${i}`,
          required: [null, true, false][i % 3],
          dataType: types[i % types.length],
        })),
      },
    },
    { parameter: { name: "threshold", dataType: { double: {} } } },
    { unsupported: { unsupportedType: "org.example.Image" } },
  ],
  outputs: [
    { tabular: { name: "scores", columns: [{ name: "score", required: false, dataType: { double: {} } }] } },
    { parameter: { name: "label", required: true, dataType: { string: {} } } },
  ],
};

async function main(): Promise<void> {
  const client = connect();
  try {
    const parentFolderRid = `ri.compass.main.folder.${randomUUID()}`;
    const createModel = (name: string) =>
      call(client, "createModel", { name, parentFolderRid, requestId: randomUUID() });
    const staging = await createModel("staging");
    const production = await createModel("production");
    console.error(`created ${staging.rid} and ${production.rid}`);

    const version = await call(client, "createModelVersion", {
      modelRid: staging.rid,
      modelApi: wideModelApi,
      condaRequirements: ["numpy==2.1.0", "scikit-learn==1.7.2"],
      backingRepositories: ["ri.stemma.main.repository.churn"],
      linkedExperiment: "ri.models.main.experiment.churn",
      requestId: randomUUID(),
    });
    console.error(`registered ${version.rid}`);

    // The id makes the call safe to repeat: the service config does so when the answer is lost, and so may anybody.
    const request = {
      modelRid: production.rid,
      sourceModelVersionRid: version.rid,
      preview: true,
      requestId: randomUUID(),
    };
    console.error(`promoted ${(await call(client, "promoteVersion", request)).rid}`);
    const promoted = await call(client, "promoteVersion", request);
    console.error(`repeated ${promoted.rid}`);

    const wanted = { modelRid: production.rid, modelVersionRid: promoted.rid };
    console.log(JSON.stringify(await call(client, "getModelVersion", wanted), null, 2));

    await tellFailure(call(client, "getModel", { modelRid: `ri.models.main.model.${randomUUID()}` }));
    // A deadline that has passed already, so that it is certainly missed.
    await tellFailure(call(client, "getModel", { modelRid: staging.rid }, -1));

    const pages = await modelsByPage(client, parentFolderRid);
    console.error(`listed ${pages.flat().length} models in ${pages.length} pages`);
  } finally {
    client.close();
  }
}

/** Opens a channel with TLS, the token, and the service config that comes with the protos. */
function connect(): grpc.Client {
  const token = grpc.credentials.createFromMetadataGenerator((_, done) => {
    const metadata = new grpc.Metadata();
    metadata.set("authorization", `Bearer ${MODELREGISTRY_TOKEN}`);
    done(null, metadata);
  });
  const tls = grpc.credentials.createSsl(readFileSync(MODELREGISTRY_CA_CERT!));
  return new grpc.Client(MODELREGISTRY_TARGET!, grpc.credentials.combineChannelCredentials(tls, token), {
    "grpc.service_config": readFileSync("protos/modelregistry/v1/service_config.json", "utf8"),
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_permit_without_calls": 1,
  });
}

/** Calls a method with proto3 JSON. A name that the request does not have is an error, and is not left out unseen. */
function call(client: grpc.Client, name: string, request: object, seconds = callSeconds): Promise<any> {
  const { name: rpc, input, output } = service.method[name];
  const bytes = Buffer.from(toBinary(input, fromJson(input, request as JsonObject)));
  // Said in the service config, too, where grpc-js does not look for it.
  const metadata = new grpc.Metadata({ waitForReady: true });
  const options = { deadline: Date.now() + seconds * 1000 };
  return new Promise((resolve, reject) =>
    client.makeUnaryRequest(
      `/${service.typeName}/${rpc}`,
      (sent: Buffer) => sent,
      (received: Buffer) => toJson(output, fromBinary(output, received)),
      bytes,
      metadata,
      options,
      (error, answer) => (error ? reject(error) : resolve(answer)),
    ),
  );
}

async function modelsByPage(client: grpc.Client, parentFolderRid: string): Promise<object[][]> {
  const pages: object[][] = [];
  let pageToken: string | undefined;
  do {
    const page = await call(client, "listModels", { parentFolderRid, pageSize: 1, ...(pageToken && { pageToken }) });
    pages.push(page.data);
    pageToken = page.nextPageToken;
  } while (pageToken !== undefined);
  return pages;
}

async function tellFailure(failing: Promise<unknown>): Promise<void> {
  try {
    await failing;
  } catch (error) {
    console.error(`failed with ${described(error as grpc.ServiceError)}`);
  }
}

/** An error's name, parameters and instance id, as its ErrorInfo has them, or else its code. */
function described(error: grpc.ServiceError): string {
  const info = detailsOf(error).find((detail) => detail.typeUrl.endsWith(`/${errorInfoSchema.typeName}`));
  if (!info) {
    return grpc.status[error.code];
  }
  const { metadata }: any = toJson(errorInfoSchema, fromBinary(errorInfoSchema, info.value));
  const { errorName, errorInstanceId, ...parameters } = metadata;
  const told = Object.entries(parameters).map(([key, value]) => `${key}=${value}`);
  return [errorName, ...told.sort(), `instance ${errorInstanceId}`].join(", ");
}

function detailsOf(error: grpc.ServiceError): Any[] {
  const [bytes] = error.metadata.get("grpc-status-details-bin");
  const status: any = bytes ? fromBinary(statusSchema, bytes as Buffer) : undefined;
  return status?.details ?? [];
}

try {
  await main();
} catch (error) {
  console.error(`${error}`);
  process.exitCode = 1;
}
