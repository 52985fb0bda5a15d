// Promotes a model version from one model into another, as examples/README.md says: with @grpc/grpc-js, which learns
// the API from the .proto files when it starts, so that nothing has to be generated.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";

import * as grpc from "@grpc/grpc-js";
import * as protoLoader from "@grpc/proto-loader";

type Message = Record<string, any>;
type Unary = (request: Message, options: grpc.CallOptions, done: grpc.requestCallback<Message>) => void;

const { MODELREGISTRY_TARGET, MODELREGISTRY_TOKEN, MODELREGISTRY_CA_CERT } = process.env;
const callSeconds = 20;

const definitions = protoLoader.loadSync(
  ["modelregistry/v1/model_service.proto", "google/rpc/status.proto", "google/rpc/error_details.proto"],
  { includeDirs: ["protos"], longs: String, enums: String },
);

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

/** A table of 200 columns, of all data types. */
const wideModelApi = {
  inputs: [
    {
      tabular: {
        name: "Größe 📏",
        required: true,
        format: "TABULAR_FORMAT_SPARK",
        columns: Array.from({ length: 200 }, (_, i) => ({
          name: `${names[i % names.length]} ${i}`,
          required: [undefined, true, false][i % 3],
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

/** Opens a channel with TLS, the token, and the service config that comes with the protos. */
function connect(): grpc.Client {
  const token = grpc.credentials.createFromMetadataGenerator((_, done) => {
    const metadata = new grpc.Metadata();
    metadata.set("authorization", `Bearer ${MODELREGISTRY_TOKEN}`);
    done(null, metadata);
  });
  const tls = grpc.credentials.createSsl(readFileSync(MODELREGISTRY_CA_CERT!));
  const { modelregistry } = grpc.loadPackageDefinition(definitions) as Message;
  return new modelregistry.v1.ModelService(
    MODELREGISTRY_TARGET,
    grpc.credentials.combineChannelCredentials(tls, token),
    {
      "grpc.service_config": readFileSync("protos/modelregistry/v1/service_config.json", "utf8"),
      "grpc.keepalive_time_ms": 30_000,
      "grpc.keepalive_permit_without_calls": 1,
    },
  );
}

function call(client: grpc.Client, method: string, request: Message, seconds = callSeconds): Promise<Message> {
  const deadline = Date.now() + seconds * 1000;
  const unary = (client as Message)[method].bind(client) as Unary;
  return new Promise((resolve, reject) =>
    unary(request, { deadline }, (error, response) => (error ? reject(error) : resolve(response!))),
  );
}

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
    console.log(JSON.stringify(versionToJson(await call(client, "getModelVersion", wanted)), null, 2));

    await tellFailure(call(client, "getModel", { modelRid: `ri.models.main.model.${randomUUID()}` }));
    // A deadline that has passed already, so that it is certainly missed.
    await tellFailure(call(client, "getModel", { modelRid: staging.rid }, -1));

    const pages = await modelsByPage(client, parentFolderRid);
    console.error(`listed ${pages.flat().length} models in ${pages.length} pages`);
  } finally {
    client.close();
  }
}

/** A version as proto3 JSON: what proto-loader makes of it is that already, but for the time. */
function versionToJson({ createdTime, ...version }: Message): Message {
  const milliseconds = Number(createdTime.seconds) * 1000 + (createdTime.nanos ?? 0) / 1e6;
  return { ...version, createdTime: new Date(milliseconds).toISOString() };
}

async function modelsByPage(client: grpc.Client, parentFolderRid: string): Promise<Message[][]> {
  const pages: Message[][] = [];
  let pageToken: string | undefined;
  do {
    const page = await call(client, "listModels", { parentFolderRid, pageSize: 1, pageToken });
    pages.push(page.models);
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
  for (const detail of detailsOf(error)) {
    if (detail.type_url.endsWith("/google.rpc.ErrorInfo")) {
      const { errorName, errorInstanceId, ...parameters } = message("google.rpc.ErrorInfo", detail.value).metadata;
      const told = Object.entries(parameters).map(([key, value]) => `${key}=${value}`);
      return [errorName, ...told.sort(), `instance ${errorInstanceId}`].join(", ");
    }
  }
  return grpc.status[error.code];
}

function detailsOf(error: grpc.ServiceError): Message[] {
  const [status] = error.metadata.get("grpc-status-details-bin");
  return status ? (message("google.rpc.Status", status as Buffer).details ?? []) : [];
}

function message(name: string, bytes: Buffer): Message {
  return (definitions[name] as protoLoader.MessageTypeDefinition<object, object>).deserialize(bytes);
}

await main();
