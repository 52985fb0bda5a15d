// Promotes a model version from one model into another, as examples/README.md says: with stubs that protoc-gen-es
// generated, over Connect's gRPC transport.

import { randomUUID } from "node:crypto";

import { toJson } from "@bufbuild/protobuf";
import { type Client, ConnectError } from "@connectrpc/connect";

import { connect, described } from "./connection.js";
import { ModelVersionSchema } from "./gen/modelregistry/v1/model_pb.js";
import { ModelService } from "./gen/modelregistry/v1/model_service_pb.js";
import { wideModelApi } from "./wide.js";

async function main(): Promise<void> {
  const { client, close } = connect(ModelService);
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

/** A deadline so near that no new connection can be made before. Connect takes one that has passed for none at all. */
async function tellMissedDeadline(modelRid: string): Promise<void> {
  const { client, close } = connect(ModelService);
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

try {
  await main();
} catch (error) {
  console.error(`${error}`);
  process.exitCode = 1;
}
